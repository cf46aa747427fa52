"""One shard of a stage on disk: which files it has, and the report that is also its manifest.

The manifest is published last. Where it carries the digest of the inputs at hand and its files still have
the bytes it names, the shard is done, and nothing about it is read, asked or written again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from cai.errors import StoreError
from cai.given import read_given
from cai.rows import Row
from cai.store import Published, decode, explain, file_sha256, guard, write_json

TRANSIENT = frozenset({"retries_exhausted", "malformed"})  # rows lost to these may succeed another time


class ShardPaths(NamedTuple):
    """Where a shard keeps its files."""

    rows: Path
    drops: Path
    manifest: Path
    journal: Path


class ShardReport(Row):
    """What came of a shard.

    Tokens and `cost` (US dollars, None where a price is unknown) cover every distinct call behind the rows,
    replayed ones too; `cost_made` covers the calls of this run. `failed_calls`: calls of this run given up,
    by ProviderError kind. `attempts`: exchanges of this run that were sent, `failed_attempts`: those without a
    reply, by AttemptFailed's why. `rows_used`: rows in that gave rows, `rows_lost`: those that gave drops only; None
    in manifests of earlier releases. `corrupt_lines`: damaged journal lines skipped. `seconds`: wall time of this
    run. `skipped`: the shard was done before, and this run did nothing. `defused`: turn tokens that stood in prompts
    and were broken up on the way to the model (`cai.models.turns`).
    """

    stage: str
    shard: int
    inputs_digest: str
    rows_in: int
    rows_out: int
    drops: dict[str, int]
    calls_made: int
    calls_replayed: int
    failed_calls: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: float | None
    cost_made: float | None
    corrupt_lines: int
    seconds: float
    skipped: bool
    rows: Published
    dropped: Published
    defused: int = 0
    rows_used: int | None = None
    rows_lost: int | None = None
    attempts: int | None = None
    failed_attempts: dict[str, int] = Field(default_factory=dict)


def shard_paths(root: Path, stage: str, shard: int) -> ShardPaths:
    """The files of one shard of a stage, whether they exist or not."""
    folder, number = root / stage, f"{shard:05d}"
    return ShardPaths(
        rows=folder / f"rows-{number}.jsonl",
        drops=folder / f"drops-{number}.jsonl",
        manifest=folder / f"manifest-{number}.json",
        journal=root / "journal" / stage / f"{number}.jsonl",
    )


def write_manifest(manifest: Path, report: ShardReport) -> None:
    """Publish the report. File names in it are relative, so that a run's folder can be moved."""
    stored = _with_paths(report, Path(report.rows.path.name), Path(report.dropped.path.name)).model_dump(
        mode="json"
    )
    write_json(manifest, {**stored, "check": _check(stored)})


def read_manifest(manifest: Path) -> ShardReport | None:
    """The report of a shard as its run left it; None where no run has finished. Raises StoreError."""
    with guard(manifest):
        try:
            stored = json.loads(read_given(manifest))
            check = stored.pop("check", None) if isinstance(stored, dict) else None
            if check not in (None, _check(stored)):  # manifests of before there was any have none
                raise ValueError("its checksum does not match")
            report = decode(json.dumps(stored), ShardReport)
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            problem = explain(error) if isinstance(error, ValueError) else "nested too deeply"
            raise StoreError(f"{manifest}: not a manifest of this version ({problem})") from error
    folder = manifest.parent
    names = report.rows.path.name, report.dropped.path.name  # no path leads out of the folder
    return _with_paths(report, *(folder / name for name in names))


def _check(stored: Any) -> str:
    """Digest of a manifest's values: a damaged number in it must not be believed."""
    body = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(body.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def finished(paths: ShardPaths, inputs_digest: str) -> ShardReport | None:
    """The report of a shard that needs no work, as of a run that made no call; None where there is work.

    Rows lost to an endpoint in trouble are work: the next run asks them again, and them only.
    """
    try:
        report = read_manifest(paths.manifest)
    except StoreError:  # the journal still has the replies, so doing the shard again costs next to nothing
        return None
    if report is None or report.inputs_digest != inputs_digest or not TRANSIENT.isdisjoint(report.drops):
        return None
    if any(file_sha256(file.path) != file.sha256 for file in (report.rows, report.dropped)):
        return None
    return report.model_copy(
        update={
            "calls_made": 0,
            "calls_replayed": report.calls_made + report.calls_replayed,
            "failed_calls": {},
            "attempts": 0,
            "failed_attempts": {},
            "cost_made": 0.0,
            "seconds": 0.0,
            "skipped": True,
        }
    )


def _with_paths(report: ShardReport, rows: Path, dropped: Path) -> ShardReport:
    return report.model_copy(
        update={
            "rows": report.rows.model_copy(update={"path": rows}),
            "dropped": report.dropped.model_copy(update={"path": dropped}),
        }
    )
