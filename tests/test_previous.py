"""The version before an edit is kept whole or not at all, at no cost, and only where an edit reaches a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cai.prompts
import cai.runfolder.previous
from cai.config import RunConfig
from cai.constitution import load_constitution
from cai.publish import publish_rows
from cai.report.edit import write_edit
from cai.rows import Judgment
from cai.runfolder.hold import finish_run, start_run
from cai.runfolder.previous import config_changes, keep_previous, stored_constitution
from tests.flows.small import CONSTITUTION, small_run
from tests.test_filter import HAND

SECOND = CONSTITUTION.replace("Be honest.", "Be truthful.")
THIRD = CONSTITUTION.replace("weight: 2", "weight: 3")


def run(config: RunConfig, text: str, rows: list[Judgment], *, finish: bool = True) -> None:
    """A run by this constitution, of which only the judge has published anything."""
    Path(config.constitution).write_text(text)
    with start_run(config):
        publish_rows(config.root, "judge", 0, text, rows)
        if finish:
            finish_run(config, {}, 1.0)


def started(folder: Path, **changes: Any) -> RunConfig:
    """A run of one shard, finished by the first constitution."""
    config = small_run(folder, "http://unused/v1", shards=1, **changes)
    run(config, CONSTITUTION, HAND)
    return config


def kept(config: RunConfig) -> tuple[str, bytes] | None:
    """The honest principle and the judgments of the version before, as far as there is one."""
    folder = config.root / "previous"
    if not folder.exists():
        return None
    principles = {one.id: one for one in stored_constitution(folder).principles}
    wording = f"{principles['honest'].statement} {principles['brief'].weight:g}"
    return wording, (folder / "judge" / "rows-00000.jsonl").read_bytes()


def test_an_edit_keeps_what_was_there(tmp_path: Path) -> None:
    """The rows are the old ones by link, not the new ones, and the next edit takes their place."""
    config = started(tmp_path)
    rows = config.root / "judge" / "rows-00000.jsonl"
    first, inode = rows.read_bytes(), rows.stat().st_ino
    run(config, SECOND, HAND[:2])
    assert kept(config) == ("Be honest. 2", first)
    assert (config.root / "previous" / "judge" / "rows-00000.jsonl").stat().st_ino == inode
    second = rows.read_bytes()
    run(config, THIRD, HAND[:1])
    assert kept(config) == ("Be truthful. 2", second)
    assert [path.name for path in config.root.glob(".previous-*")] == [
        (config.root / "previous").readlink().name
    ]


@pytest.mark.parametrize(
    "text",
    [
        CONSTITUTION,
        f"# a comment\n{CONSTITUTION}",
        CONSTITUTION.replace("version:", "description: new\nversion:"),
    ],
)
def test_an_edit_for_readers_keeps_nothing(tmp_path: Path, text: str) -> None:
    """Comments and descriptions reach no model."""
    config = started(tmp_path)
    run(config, text, HAND)
    assert kept(config) is None and write_edit(config) is None and not list(config.root.glob(".previous*"))


def test_an_unfinished_run_leaves_the_version_before_it(tmp_path: Path) -> None:
    """What was begun by a second constitution and went on by a third is compared with the first."""
    config = started(tmp_path)
    run(config, SECOND, HAND[:2], finish=False)
    before = kept(config)
    run(config, THIRD, HAND[:3])
    assert kept(config) == before
    assert write_edit(config) is not None


def test_back_to_the_version_before_there_is_nothing_to_tell(tmp_path: Path) -> None:
    """An edit that was undone before its run was finished leaves no report of it."""
    config = started(tmp_path)
    run(config, SECOND, HAND[:2], finish=False)
    assert write_edit(config) is not None
    run(config, CONSTITUTION, HAND)
    assert write_edit(config) is None and not (config.root / "edit.json").exists()


def test_another_config_is_named(tmp_path: Path) -> None:
    """What else may have changed rows is told from what cannot: where a model is served, what the run is called."""
    config = started(tmp_path)
    elsewhere = {
        name: one.model_copy(update={"endpoint": "http://other/v1"}) for name, one in config.models.items()
    }
    config = config.model_copy(update={"models": elsewhere})
    run(config, SECOND, HAND[:2])
    assert config_changes(config) == []
    judge = config.judge.model_copy(update={"threshold": 0.9})
    other = config.model_copy(update={"judge": judge, "seed": 1})
    run(other, SECOND, HAND[:2])
    assert kept(other) is not None
    assert config_changes(other) == ["judge.threshold", "seed"]
    found = write_edit(other)
    assert found is not None and found["config"] == ["judge.threshold", "seed"]


def test_edited_templates_are_named(tmp_path: Path) -> None:
    """A config names its templates by folder; their texts count."""
    templates = tmp_path / "templates"
    shutil.copytree(Path(cai.prompts.__file__).parent / "default", templates)
    config = started(tmp_path, templates=str(templates))
    run(config, SECOND, HAND[:2])
    assert config_changes(config) == []
    edited = min(path for path in templates.iterdir() if path.is_file())
    edited.write_text(edited.read_text() + "\nMind this.\n")
    cai.prompts._load.cache_clear()  # as in the process of the next run
    assert config_changes(config) == ["templates"]


def test_other_shards_are_not_compared(tmp_path: Path) -> None:
    """Rows lie in other files then; the report says so, and still names the edit."""
    config = started(tmp_path)
    config = config.model_copy(update={"shards": 2})
    run(config, SECOND, HAND[:2])
    found = write_edit(config)
    assert found is not None and "2 shards and were in 1" in found["skipped"]
    assert found["judgments"] == {} and [one["kind"] for one in found["changes"]] == ["reworded"]


def test_a_file_system_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is the same; it only takes space."""

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    config = started(tmp_path)
    rows = config.root / "judge" / "rows-00000.jsonl"
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    keep_previous(config, load_constitution(_written(tmp_path, SECOND)))
    found = kept(config)
    assert found is not None and found[1] == rows.read_bytes()
    assert (config.root / "previous" / "judge" / "rows-00000.jsonl").stat().st_ino != rows.stat().st_ino


class Killed(BaseException):
    """What kill -9 would do, where the test can see it."""


STEPS = (
    (Path, "mkdir"), (cai.runfolder.previous, "link_or_copy"), (Path, "symlink_to"), (Path, "replace"),
    (cai.runfolder.previous, "sync_folder"), (shutil, "rmtree"), (Path, "unlink"),
)  # fmt: skip


def test_killed_anywhere_there_is_the_old_version_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every step on disk; starting again keeps the version that it must."""
    config = started(tmp_path)
    run(config, SECOND, HAND[:2])
    old = kept(config)
    third = load_constitution(_written(tmp_path, THIRD))
    new = ("Be truthful. 2", (config.root / "judge" / "rows-00000.jsonl").read_bytes())
    seen = set()
    for step in range(100):
        with monkeypatch.context() as patch:
            count = _die_at(patch, step)
            try:
                keep_previous(config, third)
            except Killed:
                seen.add(kept(config))
                assert kept(config) in (old, new), step
                continue
            assert count() <= step  # no step was left to die at
            break
    assert seen == {old, new} and step > 10
    assert kept(config) == new
    assert len(list(config.root.glob(".previous-*"))) == 1


def _die_at(patch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """From here on, the `step`-th action on disk is not done any more; returns how many were."""
    done = [0]

    def mortal(action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            if done[0] == step:
                raise Killed
            done[0] += 1
            return action(*args, **kwargs)

        return act

    for owner, name in STEPS:
        patch.setattr(owner, name, mortal(getattr(owner, name)))
    return lambda: done[0]


def _written(folder: Path, text: str) -> Path:
    path = folder / "edited.yaml"
    path.write_text(text)
    return path
