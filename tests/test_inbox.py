"""The inbox: files are taken whole, once and unchanged; ids stay; a kill loses and doubles nothing."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai.config import RunConfig, SourceConfig
from cai.errors import ConfigError
from cai.rows import Prompt
from cai.sources import read_prompts
from cai.sources.inbox import Taken, inbox_file, take, with_inbox
from tests.flows.small import small_config

HOUR = 3600.0


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    folder.mkdir()
    return folder


def put(
    folder: Path, name: str, *rows: dict[str, Any], age_s: float = HOUR, raw: bytes | None = None
) -> Path:
    """A file in the inbox that was last changed `age_s` ago."""
    path = folder / name
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() if raw is None else raw)
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def look(folder: Path, root: Path, **fields: Any) -> Taken:
    return take(SourceConfig(path=str(folder), **fields), root)


def prompts(root: Path, *before: Path) -> list[Prompt]:
    """What a run with these sources and the inbox reads."""
    sources = [SourceConfig(path=str(path)) for path in (*before, inbox_file(root))]
    return [row for row in read_prompts(sources) if isinstance(row, Prompt)]


def test_files_of_any_format_are_taken_once(inbox: Path, tmp_path: Path) -> None:
    """Ids, turns and tags come through; the files stay as they are; the second look finds nothing."""
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]
    turns.append({"role": "user", "content": "What is rain?"})
    put(inbox, "a.jsonl", {"id": "q1", "messages": turns, "tags": ["helpful"]}, {"prompt": " "})
    put(inbox, "b.txt.gz", raw=gzip.compress(b"Why?\nWhat is rain?\nWhy?\n"))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in inbox.iterdir()}
    root = tmp_path / "run"
    found = look(inbox, root, tags=["daily"])
    assert found.prompts == 3 and found.left == {}
    assert found.files["a.jsonl"].drops == {"empty_prompt": 1}
    assert found.files["b.txt.gz"].drops == {"duplicate": 1}
    first, second, third = prompts(root)
    assert first.id == "q1" and [turn.content for turn in first.messages] == ["Hi.", "Yes?", "What is rain?"]
    assert first.tags == ("daily", "helpful") and second.tags == ("daily",)
    assert [row.messages[0].content for row in (second, third)] == ["Why?", "What is rain?"]
    assert look(inbox, root) == Taken(files={}, left={})
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in inbox.iterdir()}


def test_new_files_change_no_id(inbox: Path, tmp_path: Path) -> None:
    """Whatever its name and its ids, a later file leaves the prompts before it as they were."""
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"id": 1, "prompt": "Own."}) + "\n")
    root = tmp_path / "run"
    put(inbox, "m.jsonl", {"id": 1, "prompt": "First."}, {"prompt": "Second."})
    look(inbox, root)
    before = prompts(root, own)
    assert [row.id for row in before[:2]] == ["1", "inbox.1"]
    put(inbox, "a.jsonl", {"id": 1, "prompt": "Third."}, {"id": 2, "prompt": "First."})
    found = look(inbox, root)
    assert found.prompts == 1 and found.files["a.jsonl"].drops == {"duplicate": 1}
    after = prompts(root, own)
    assert after[:3] == before and after[3].messages[0].content == "Third."
    assert len({row.id for row in after}) == 4


def test_a_file_in_the_making_is_left_until_it_is_done(inbox: Path, tmp_path: Path) -> None:
    """Just changed, hidden, in a folder: not read. Grown since: read again, for what is new."""
    root = tmp_path / "run"
    put(inbox, "a.jsonl", {"prompt": "One."}, age_s=1)
    put(inbox, ".b.jsonl.tmp", {"prompt": "Two."})
    (inbox / "folder").mkdir()
    assert look(inbox, root).left == {"a.jsonl": "still being written"}
    assert not inbox_file(root).exists()
    put(inbox, "a.jsonl", {"prompt": "One."}, age_s=HOUR)
    assert look(inbox, root).prompts == 1
    put(inbox, "a.jsonl", {"prompt": "One."}, {"prompt": "Three."}, age_s=HOUR / 2)
    assert look(inbox, root).prompts == 1
    assert [row.messages[0].content for row in prompts(root)] == ["One.", "Three."]


def test_a_file_from_a_clock_that_is_ahead_is_taken(inbox: Path, tmp_path: Path) -> None:
    """A time of change in the future does not keep a file waiting for it."""
    put(inbox, "a.jsonl", {"prompt": "One."}, age_s=-24 * HOUR)
    assert look(inbox, tmp_path / "run").prompts == 1


def test_an_unreadable_file_is_named_and_tried_again(inbox: Path, tmp_path: Path) -> None:
    """Nothing of it is taken, the others are; mended, it is."""
    root = tmp_path / "run"
    packed = gzip.compress(b"".join(b"Question %d?\n" % n for n in range(9999)))
    put(inbox, "cut.txt.gz", raw=packed[: len(packed) // 2])
    put(inbox, "empty.jsonl", raw=b"")
    put(inbox, "fine.jsonl", {"prompt": "Fine?"})
    put(inbox, "notes.doc", raw=b"x")
    found = look(inbox, root)
    assert set(found.left) == {"cut.txt.gz", "empty.jsonl", "notes.doc"} and found.prompts == 1
    assert (
        "not a whole gzip file" in found.left["cut.txt.gz"] and "holds no rows" in found.left["empty.jsonl"]
    )
    assert len(prompts(root)) == 1
    put(inbox, "cut.txt.gz", raw=packed)
    assert look(inbox, root).prompts == 9999
    assert set(look(inbox, root).left) == {"empty.jsonl", "notes.doc"}


def test_a_file_that_changes_while_it_is_read_is_left(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it by then is not kept."""
    path = put(inbox, "a.jsonl", {"prompt": "One."})

    def growing(sources: list[SourceConfig]) -> Any:
        yield from read_prompts(sources)
        with path.open("a") as file:
            file.write(json.dumps({"prompt": "Two."}) + "\n")

    monkeypatch.setattr("cai.sources.inbox.read_prompts", growing)
    assert look(inbox, tmp_path / "run").left == {"a.jsonl": "still being written"}
    assert not inbox_file(tmp_path / "run").exists()


def test_killed_between_its_two_files_it_doubles_nothing(inbox: Path, tmp_path: Path) -> None:
    """Prompts there and the ledger not, or torn: the files are read again, and add nothing."""
    root = tmp_path / "run"
    put(inbox, "a.jsonl", {"id": "x", "prompt": "One."}, {"prompt": "Two."})
    look(inbox, root)
    kept = inbox_file(root).read_bytes()
    for ledger in (None, b'{"files": {"a.js'):
        if ledger is None:
            (root / "inbox.json").unlink()
        else:
            (root / "inbox.json").write_bytes(ledger)
        found = look(inbox, root)
        assert found.prompts == 0 and found.files["a.jsonl"].drops == {"duplicate": 2}
        assert inbox_file(root).read_bytes() == kept


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days=st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5), max_size=5))
def test_every_prompt_is_kept_once_in_the_order_of_arrival(
    days: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever came on which day, in whatever order of names."""
    folder, root = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("run")
    for number, day in enumerate(days):
        put(folder, f"{9 - number}.jsonl", *({"prompt": text} for text in day))
        look(folder, root)
    expected = list(dict.fromkeys(text for day in days for text in day))
    found = [row.messages[0].content for row in prompts(root)] if expected else []
    assert found == expected


def test_the_config_gets_one_more_source_where_something_was_taken(inbox: Path, tmp_path: Path) -> None:
    """The inbox is the last source; without a prompt taken the config stays as it is."""
    config = RunConfig.model_validate(small_config(tmp_path, "http://127.0.0.1:9/v1"))
    assert with_inbox(config) == config
    put(inbox, "a.jsonl", {"prompt": "One."})
    look(inbox, config.root)
    found = with_inbox(config)
    assert found.prompts[:-1] == config.prompts
    assert found.prompts[-1].path == str(config.root / "inbox.jsonl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "nowhere"}, "inbox: there is no folder nowhere; make it"),
        ({"dataset": "some/set"}, "inbox: 'some/set' is a dataset of the hub; give 'path', a folder"),
    ],
)
def test_an_inbox_that_is_none_is_one_line(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    """The message names the value and the fix."""
    with pytest.raises(ConfigError, match=message):
        take(SourceConfig.model_validate(fields), tmp_path)
