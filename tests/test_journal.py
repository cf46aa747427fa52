"""The journal: what survives, what is skipped, who is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai import journal as journal_module
from cai import journal_lines
from cai.errors import StoreError
from cai.journal import Journal
from cai.models.base import Completion, Usage

TEXTS = st.text(st.characters(exclude_categories=())) | st.text()


def key(number: int) -> str:
    """A distinct journal key."""
    return f"{number:032x}"


def reply(text: str) -> Completion:
    """A completion with this text."""
    return Completion(text=text, finish_reason="stop", usage=Usage(prompt_tokens=1), model="m", cost=0.1)


def filled(path: Path, count: int = 3) -> bytes:
    """A journal with replies `r0`, `r1` …; returns its bytes."""
    with Journal(path) as journal:
        for number in range(count):
            journal.put(key(number), reply(f"r{number}"))
    return path.read_bytes()


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXTS, max_size=8))
def test_replies_read_back_equal(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Any text, lone surrogates and newlines included, comes back as it was, now and after reopening."""
    path = tmp_path_factory.mktemp("j") / "0.jsonl"
    with Journal(path) as journal:
        for number, text in enumerate(texts):
            journal.put(key(number), reply(text))
            assert journal.get(key(number)) == reply(text)
    with Journal(path) as journal:
        assert [journal.get(key(number)) for number in range(len(texts))] == [reply(text) for text in texts]
        assert journal.get(key(len(texts))) is None
        assert journal.corrupt_lines == 0


def test_every_line_is_json(tmp_path: Path) -> None:
    """The file is plain JSONL: other tools can read it."""
    lines = filled(tmp_path / "0.jsonl").splitlines()
    assert [json.loads(line)["completion"]["text"] for line in lines] == ["r0", "r1", "r2"]


def test_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    """Whatever byte a crash stopped at, whole lines stay, the torn one goes, and writing goes on.

    A line that lacks nothing but its newline is whole.
    """
    path = tmp_path / "0.jsonl"
    whole = filled(path)
    line = len(whole) // 3
    for size in (*range(2 * line, len(whole), 9), len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with Journal(path) as journal:
            assert journal.corrupt_lines == 0
            if size == len(whole) - 1:
                assert path.read_bytes() == whole
                continue
            assert len(journal) == 2
            assert path.stat().st_size == 2 * line
            journal.put(key(2), reply("r2"))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [0, 10, 30, 80, 100])
def test_damaged_middle_line_is_skipped_and_counted(tmp_path: Path, damage: int) -> None:
    """One flipped byte loses that reply only."""
    path = tmp_path / "0.jsonl"
    whole = bytearray(filled(path))
    whole[len(whole) // 3 + damage] ^= 1
    path.write_bytes(bytes(whole))
    with Journal(path) as journal:
        assert journal.corrupt_lines == 1
        assert [journal.get(key(number)) is None for number in range(3)] == [False, True, False]


def test_used_and_unused_entries_are_told_apart(tmp_path: Path) -> None:
    """Replies that nobody asked for since opening are the stale ones."""
    path = tmp_path / "0.jsonl"
    filled(path)
    with Journal(path) as journal:
        assert journal.unused == 3
        journal.get(key(1))
        journal.get(key(1))
        assert (journal.unused, journal.used(key(1)), journal.used(key(0))) == (2, True, False)


def test_second_run_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    """Another process cannot open the same shard; the message names pid and host. Closing frees it."""
    path = tmp_path / "0.jsonl"
    code = f"from pathlib import Path; from cai.journal import Journal; Journal(Path({str(path)!r}))"
    command = [sys.executable, "-c", code]
    with Journal(path):
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"StoreError: {path}" in other.stderr
        assert f"pid {os.getpid()} on {socket.gethostname()}" in other.stderr
        with pytest.raises(StoreError, match="another run"):
            Journal(path)
    with Journal(path):
        pass


def test_full_disk_names_the_path_and_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that stops half way is taken back, so that the next one starts on a line of its own."""
    path = tmp_path / "0.jsonl"
    whole = filled(path)
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 60:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:-50])

    with Journal(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StoreError, match=r"0\.jsonl: No space left on device"):
                journal.put(key(9), reply("r9"))
        assert path.read_bytes() == whole
        journal.put(key(9), reply("r9"))
        assert journal.get(key(9)) == reply("r9")


def test_unwritable_folder_names_the_path(tmp_path: Path) -> None:
    """A journal that cannot be created is a StoreError, not an OSError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/0\.jsonl"):
        Journal(tmp_path / "file" / "0.jsonl")


def test_failed_fsync_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the background thread meets is raised to the next writer."""
    monkeypatch.setattr(journal_module, "SYNC_INTERVAL_S", 0.001)
    journal = Journal(tmp_path / "0.jsonl")

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        journal.put(key(0), reply("r0"))
        journal._syncer.join(30)
        with pytest.raises(StoreError, match="fsync failed"):
            journal.put(key(1), reply("r1"))
        assert journal.get(key(1)) == reply("r1")  # it is paid for
        with pytest.raises(StoreError, match="fsync failed"):
            journal.close()


def test_late_reply_cannot_reach_a_closed_file(tmp_path: Path) -> None:
    """After closing, the descriptor may belong to another file; writing must be refused."""
    journal = Journal(tmp_path / "0.jsonl")
    journal.close()
    journal.close()
    with pytest.raises(StoreError, match="closed"):
        journal.put(key(0), reply("late"))


def test_file_changed_while_open_is_noticed(tmp_path: Path) -> None:
    """A reply is checked again when it is read back."""
    path = tmp_path / "0.jsonl"
    whole = filled(path)
    with Journal(path) as journal:
        path.write_bytes(whole.replace(b"r1", b"x1"))
        with pytest.raises(StoreError, match="checksum"):
            journal.get(key(1))


def pages(whole: bytes, seed: int) -> tuple[str, bytes]:
    """The bytes of a journal after one of the things that disks and file systems do to them."""
    rng = random.Random(seed)
    place = rng.randrange(len(whole))
    block = rng.randrange(len(whole) // 512 + 1) * 512
    newline = whole.index(b"\n", place)
    return rng.choice(
        [
            ("zeros", whole[:block] + bytes(len(whole[block : block + 512])) + whole[block + 512 :]),
            ("flipped", whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]),
            ("truncated", whole[:place]),
            ("joined", whole[:newline] + whole[newline + 1 :]),
            ("doubled", whole[: block + 512] + whole[block:]),
            ("nuls at the end", whole[:place] + bytes(4096)),
        ]
    )


@pytest.mark.parametrize("seed", range(40))
def test_damage_costs_what_it_hit_and_never_a_wrong_reply(tmp_path: Path, seed: int) -> None:
    """Lines that were not touched are found behind the damage; the others are missing, and can be written again."""
    path, count = tmp_path / "0.jsonl", 60
    whole = filled(path, count)
    size = len(whole) // count + 1
    what, broken = pages(whole, seed)
    path.write_bytes(broken)
    with Journal(path) as journal:
        held = [journal.get(key(number)) for number in range(count)]
        assert all(found in (None, reply(f"r{number}")) for number, found in enumerate(held))
        missing = held.count(None)
        most = {"joined": 0, "doubled": 0, "flipped": 1, "zeros": 512 // size + 3}
        assert missing <= most.get(what, (len(whole) - broken.find(bytes(9))) // (size - 2) + 2)
        assert journal.corrupt_lines <= 3
        for number, found in enumerate(held):
            if found is None:
                journal.put(key(number), reply(f"r{number}"))
    with Journal(path) as journal:
        assert [journal.get(key(number)) for number in range(count)] == [reply(f"r{n}") for n in range(count)]


def test_a_file_without_lines_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage without a newline is read in pieces, and what is written behind it is found."""
    monkeypatch.setattr(journal_lines, "LONGEST", 1000)
    path = tmp_path / "0.jsonl"
    path.write_bytes(b"x" * 10_500)
    with Journal(path) as journal:
        assert len(journal) == 0 and journal.corrupt_lines >= 10
        journal.put(key(0), reply("r0"))
    with Journal(path) as journal:
        assert journal.get(key(0)) == reply("r0")


def test_replies_are_not_lost_with_a_deleted_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed within a moment, whoever writes is told, and the file is there again with every reply."""
    monkeypatch.setattr(journal_module, "SYNC_INTERVAL_S", 0.001)
    path = tmp_path / "journal" / "0.jsonl"
    journal = Journal(path)
    journal.put(key(0), reply("r0"))
    shutil.rmtree(path.parent)
    journal._syncer.join(30)
    with pytest.raises(StoreError, match="was deleted while this run"):
        journal.put(key(1), reply("r1"))
    with pytest.raises(StoreError, match="was deleted while this run"):
        journal.close()
    with Journal(path) as journal:
        assert [journal.get(key(number)) for number in range(2)] == [reply("r0"), reply("r1")]


@pytest.mark.parametrize("how", ["replaced", "moved"])
def test_another_file_under_its_name_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Who took the place keeps it; a moved file has its replies where it is now."""
    monkeypatch.setattr(journal_module, "SYNC_INTERVAL_S", 60)
    path, away = tmp_path / "0.jsonl", tmp_path / "away.jsonl"
    journal = Journal(path)
    journal.put(key(0), reply("r0"))
    if how == "replaced":
        path.unlink()
        path.write_text("another's")
    else:
        path.rename(away)
    with pytest.raises(StoreError, match=r"was (deleted|moved) while this run"):
        journal.close()
    if how == "replaced":
        assert path.read_text() == "another's"
    else:
        assert not path.exists() and b'"r0"' in away.read_bytes()
