"""Versions of a dataset: numbered, whole, immutable, and only where something changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cai.config import RunConfig
from cai.constitution import load_constitution
from cai.errors import StoreError
from cai.export.versions import publish_version, read_changes, versions_of
from cai.rows import Prompt
from cai.store import write_json, write_rows, write_text
from tests.flows.small import small_config, write_inputs
from tests.test_changes import pair, says


def run_with(
    folder: Path, *names: str, p: float = 0.9, state: str = "finished", **changes: object
) -> RunConfig:
    """A finished run whose dataset has these pairs, one a prompt, as the flows leave it."""
    write_inputs(folder)
    config = RunConfig.model_validate(small_config(folder, "http://127.0.0.1:9/v1", shards=1) | changes)
    root = config.root
    write_json(root / "config.json", config)
    write_json(root / "constitution.json", load_constitution(config.constitution))
    write_json(root / "summary.json", {"state": state})
    prompts = [Prompt(id=name, messages=says("user", name), source="own") for name in names]
    write_rows(root / "prompts" / "rows-00000.jsonl", prompts)
    write_rows(root / "dataset" / "preference" / "train.jsonl", [pair(name, p=p) for name in names])
    write_text(root / "dataset" / "README.md", "A card.")
    return config


def numbers(config: RunConfig) -> list[str]:
    return [path.name for path in versions_of(config.root)]


def test_a_version_for_each_change(tmp_path: Path) -> None:
    """The first holds everything as added; then only a changed dataset makes another one."""
    first = publish_version(run_with(tmp_path, "a", "b"))
    assert (first.version, first.previous, first.dataset["preference"].added) == ("0001", None, 2)
    assert set(first.dataset) == {"preference"} and first.previous_constitution is None
    config = run_with(tmp_path, "b", "a")
    assert not publish_version(config).any and numbers(config) == ["0001"]
    second = publish_version(run_with(tmp_path, "a", "c", p=0.8))
    assert (second.version, second.previous) == ("0002", "0001")
    preference = second.dataset["preference"]
    assert (preference.added, preference.removed, preference.p_moved) == (1, 1, 1)
    assert read_changes(config.root / "versions" / "0002") == second
    assert second.line() == (
        "prompts 2 (+1 −1), preference 2 (+1 −1, 0 relabelled, 0 rewritten, 1 with another p)"
    )
    assert (config.root / "versions" / "0001" / "preference" / "train.jsonl").read_bytes().count(
        b'"id":"b"'
    ) == 1


def test_an_empty_dataset_is_no_version(tmp_path: Path) -> None:
    """A run that labelled nothing publishes nothing."""
    config = run_with(tmp_path)
    assert not publish_version(config).any and numbers(config) == []


def test_versions_go_on_beyond_four_digits(tmp_path: Path) -> None:
    """They are ordered as numbers."""
    config = run_with(tmp_path, "a")
    publish_version(config)
    (config.root / "versions" / "0001").rename(config.root / "versions" / "9999")
    assert publish_version(run_with(tmp_path, "b")).version == "10000"
    assert publish_version(run_with(tmp_path, "c")).previous == "10000"


def test_leftovers_of_a_killed_one_are_removed(tmp_path: Path) -> None:
    """Half-made versions and links go; `latest` is mended."""
    config = run_with(tmp_path, "a")
    publish_version(config)
    folder = config.root / "versions"
    (folder / ".0002.beef.tmp" / "sft").mkdir(parents=True)
    (folder / ".latest.beef.tmp").symlink_to("0002")
    (folder / "latest").unlink()
    assert not publish_version(config).any
    assert sorted(path.name for path in folder.iterdir()) == ["0001", "latest"]
    assert (folder / "latest" / "changes.json").is_file()


def test_without_hard_links_it_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none makes no difference to what is there."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    config = run_with(tmp_path, "a")
    publish_version(config)
    copied = config.root / "versions" / "0001" / "preference" / "train.jsonl"
    assert copied.read_bytes() == (config.root / "dataset" / "preference" / "train.jsonl").read_bytes()
    assert copied.stat().st_nlink == 1


@pytest.mark.parametrize(
    ("stored", "asked", "message"),
    [
        ({"state": "unfinished"}, {}, "the run is not finished"),
        ({}, {"seed": 3}, "another run has changed the dataset in the meantime"),
    ],
)
def test_a_dataset_that_is_not_this_runs_is_refused(
    tmp_path: Path, stored: dict[str, str], asked: dict[str, int], message: str
) -> None:
    """Unfinished, or another config's: no version, one line."""
    config = run_with(tmp_path, "a", **stored)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=message):
        publish_version(config.model_copy(update=asked))
    assert numbers(config) == []


def test_damaged_changes_are_one_line(tmp_path: Path) -> None:
    """The message names the file."""
    config = run_with(tmp_path, "a")
    publish_version(config)
    (config.root / "versions" / "0001" / "changes.json").write_text("{}")
    with pytest.raises(StoreError, match=r"0001/changes.json: not the changes"):
        read_changes(config.root / "versions" / "0001")
