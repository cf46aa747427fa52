"""The journal: what survives, what is skipped, who is refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai import journal as journal_module
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
    """Whatever byte a crash stopped at, whole lines stay, the torn one goes, and writing goes on."""
    path = tmp_path / "0.jsonl"
    whole = filled(path)
    line = len(whole) // 3
    for size in (*range(2 * line, len(whole), 9), len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with Journal(path) as journal:
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
        journal._syncer.join(5)
        with pytest.raises(StoreError, match="fsync failed"):
            journal.put(key(1), reply("r1"))
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
