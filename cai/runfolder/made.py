"""Files that are made from all of a run, and are left as they are while nothing that they are made from has changed.

A note beside them says from what each was made and which bytes it had, so a file that was changed or lost since is
made again, and so is one whose own note was damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cai import __version__
from cai.pipeline import digest
from cai.report.status import shard_reports, whole_json
from cai.store import file_sha256, write_json

OF_ONE_CALL = {
    "seconds",
    "skipped",
    "calls_made",
    "calls_replayed",
    "failed_calls",
    "attempts",
    "failed_attempts",
    "cost_made",
    "corrupt_lines",
}


def made_of(root: Path, stages: Iterable[str], *more: Any) -> str:
    """Digest of all that these stages have published, of this release, and of what else is given (JSON-able)."""
    reports = [
        report.model_dump(mode="json", exclude=OF_ONE_CALL)
        for stage in stages
        for report in shard_reports(root, stage)
    ]
    return digest(__version__, reports, *more)


def made(root: Path, what: str, inputs: str) -> Any:
    """What `note_made` was told under this name, where inputs and files are still the same; None else.

    A file with other bytes is removed: whoever makes it again must not take it for its own work of before.
    """
    found = whole_json(_note(root, what))
    if not isinstance(found, dict) or found.pop("check", None) != digest(found) or found["inputs"] != inputs:
        return None
    changed = [root / name for name, sha256 in found["files"].items() if file_sha256(root / name) != sha256]
    for path in changed:
        path.unlink(missing_ok=True)
    return None if changed else found["result"]


def note_made(root: Path, what: str, inputs: str, files: Sequence[Path], result: Any) -> None:
    """Note that files below `root` were made from these inputs. `result`: JSON-able, not None."""
    shas = {str(path.relative_to(root)): file_sha256(path) for path in files}
    note = {"inputs": inputs, "files": shas, "result": result}
    write_json(_note(root, what), {**note, "check": digest(note)})


def _note(root: Path, what: str) -> Path:
    return root / "made" / f"{what}.json"
