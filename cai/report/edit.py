"""What an edit of the constitution changed in a run, as `edit.json`: which rows moved, and how labels did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.config import RunConfig
from cai.constitution import Constitution
from cai.constitution.diff import compare
from cai.pipeline import Model, digest, rows_file
from cai.report.edit_rows import Edit, Example, Judgments, Pairs, Revisions, Stand
from cai.report.edit_tally import compare_judgments, compare_pairs, compare_revisions
from cai.report.status import JUDGED, read_json, shard_reports, whole_json
from cai.rows import Judgment, Pair, Revision
from cai.runfolder.previous import LINK, STAGES, config_changes, effective, stored_constitution
from cai.store import read_rows, write_json

FORMAT = 1  # of edit.json; a file of another one is made again


def write_edit(config: RunConfig) -> dict[str, Any] | None:
    """Publish `<run>/edit.json`, with the fields of `cai.report.edit_rows.Edit`, and return what it holds.

    None, and no file, where the run has no version before an edit, or has come back to it. One pass over both
    versions; none where the file is up to date. Raises StoreError where rows cannot be read.
    """
    path, previous = config.root / "edit.json", config.root / LINK
    if not previous.is_dir():
        return None
    old, new = stored_constitution(previous), stored_constitution(config.root)
    if not effective(compare(old, new)):
        path.unlink(missing_ok=True)
        return None
    present = {stage: [r.rows.sha256 for r in shard_reports(config.root, stage)] for stage in STAGES}
    differs = config_changes(config)
    inputs = digest(FORMAT, previous.readlink().name, differs, new.model_dump(mode="json"), present)
    known: dict[str, Any] | None = whole_json(path)
    if known is not None and known.get("inputs") == inputs:
        return known
    found = _compare(config, previous, old, new, differs).model_copy(update={"inputs": inputs})
    write_json(path, found)
    return found.model_dump(mode="json")


def _compare(
    config: RunConfig, previous: Path, old: Constitution, new: Constitution, differs: list[str]
) -> Edit:
    edit = Edit(
        inputs="",
        before=_stand(old),
        after=_stand(new),
        changes=tuple(compare(old, new)),
        config=tuple(differs),
        skipped=None,
        revisions=None,
        judgments={},
        pairs=None,
        examples=(),
    )
    was = read_json(previous / "config.json")["shards"]
    if was != config.shards:
        reason = (
            f"rows are in {config.shards} shards and were in {was}; only rows of the same shard are compared"
        )
        return edit.model_copy(update={"skipped": reason})
    examples: list[Example] = []
    return edit.model_copy(
        update={
            "revisions": _revisions(config, previous, examples),
            "judgments": _judgments(config, previous, examples),
            "pairs": _pairs(config, previous),
            "examples": tuple(examples),
        }
    )


def _revisions(config: RunConfig, previous: Path, examples: list[Example]) -> Revisions | None:
    if not _both(config, previous, "revise"):
        return None
    old, new = (_rows(root, config.shards, "revise", Revision) for root in (previous, config.root))
    return compare_revisions(old, new, examples, whole=not config.critic.stop_when_clean)


def _judgments(config: RunConfig, previous: Path, examples: list[Example]) -> dict[str, Judgments]:
    found = {}
    for stage in JUDGED:
        if _both(config, previous, stage):
            old, new = (_rows(root, config.shards, stage, Judgment) for root in (previous, config.root))
            found[stage] = compare_judgments(old, new, examples)
    return found


def _pairs(config: RunConfig, previous: Path) -> Pairs | None:
    if not _both(config, previous, "pairs"):
        return None
    old, new = (_rows(root, config.shards, "pairs", Pair) for root in (previous, config.root))
    return compare_pairs(old, new)


def _both(config: RunConfig, previous: Path, stage: str) -> bool:
    """Whether both versions have all rows of a stage."""
    shards = range(config.shards)
    return all(
        rows_file(root, stage, shard).is_file() for root in (previous, config.root) for shard in shards
    )


def _rows(root: Path, shards: int, stage: str, row: type[Model]) -> Iterator[Model]:
    for shard in range(shards):
        yield from read_rows(rows_file(root, stage, shard), row)


def _stand(constitution: Constitution) -> Stand:
    return Stand(name=constitution.name, version=constitution.version, digest=constitution.digest)
