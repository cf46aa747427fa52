"""`cai export`: a part of a run's dataset as a folder that other tools read, with a card beside it.

The folder is built under a name of its own and renamed into place, so it is there whole or not at all; an earlier
export in that place goes once the new one is complete. The same rows give the same bytes. Rows stream through, so
memory does not grow with them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from cai import __version__
from cai.errors import ConfigError
from cai.export.card import card_of
from cai.export.dataset import part_file, row_of
from cai.export.facts import Facts
from cai.export.files import split_files
from cai.export.formats import FORMATS, Format
from cai.export.held import DatasetRow, Talk, is_unicode, talk_of
from cai.export.loading import files_beside
from cai.export.record import RECORD, Choice, Exported, Split
from cai.report.status import read_json, run_status, whole_json
from cai.rows import Pair
from cai.store import file_sha256, guard, read_rows, sync_folder, write_bytes, write_json, write_text
from cai.store.seen import Seen


def export_folder(root: Path, choice: Choice, out: Path | None = None) -> tuple[Path, Exported]:
    """Write a part of a run's dataset in a format; returns where it is, and what is in it.

    `out` None: `RUN/exports/<format>`. Raises ConfigError where the run, the part or the place will not do, and where
    no row is left; StoreError where a file cannot be read or written.
    """
    form = FORMATS[choice.format]
    status = run_status(root)
    part = choice.part or form.part
    source = _source(root, part, form, choice)
    out = out or root / "exports" / choice.format
    _check_place(out)
    place = out.resolve()
    building = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    with guard(out):
        building.mkdir(parents=True)
    try:
        facts = Facts()
        rows, left_out = _write(source, building, choice, facts)
        splits = [split for split, count in rows.items() if count]
        if "train" not in splits:
            raise ConfigError(f"{source}: {_why_nothing(rows, left_out, choice)}")
        for name, body in files_beside(choice.format, status["run"], splits).items():
            write_bytes(building / name, body)
        found = Exported(
            run=status["run"],
            format=choice.format,
            part=part,
            cai=__version__,
            eval_share=choice.eval_share,
            min_p=choice.min_p,
            read=facts.rows + sum(count for reason, count in left_out.items() if reason != "duplicate"),
            rows=rows,
            left_out=left_out,
            files={},
        )
        write_text(building / "README.md", card_of(status, found, facts))
        files = {path.name: file_sha256(path) or "" for path in sorted(building.iterdir())}
        found = found.model_copy(update={"files": files})
        write_json(building / RECORD, found)
        _put(building, place)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out, found


def _source(root: Path, part: str, form: Format, choice: Choice) -> Path:
    """The file of the part, where it and what is asked of it fit together."""
    if row_of(part) is not row_of(form.part):
        later = ", preference-2 …" if form.part == "preference" else ""
        raise ConfigError(f"--part {part}: the format {choice.format} is for the part {form.part}{later}")
    if choice.min_p is not None and form.part != "preference":
        raise ConfigError(
            f"--min-p {choice.min_p:g}: rows of the part {part} have no p of their own; leave it out"
        )
    there = sorted(path.parent.name for path in (root / "dataset").glob("*/train.jsonl"))
    if part not in there:
        have = f"the dataset has {', '.join(there)}" if there else "the run has no dataset yet; let it finish"
        raise ConfigError(f"{root}: there is no part {part!r}: {have}")
    return part_file(root, part)


def _check_place(out: Path) -> None:
    """Raise ConfigError where something stands at `out` that no export made."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"--out {out}: is not a folder; name another one")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise ConfigError(f"--out {out}: holds files that no export made; name an empty or a new folder")


def _write(
    source: Path, folder: Path, choice: Choice, facts: Facts
) -> tuple[dict[Split, int], dict[str, int]]:
    """Write the rows into their splits; returns how many, and what was left out by reason."""
    form = FORMATS[choice.format]
    rows: Counter[Split] = Counter({"train": 0, "eval": 0})
    left_out: Counter[str] = Counter()
    with (
        split_files(folder, form.kind) as files,
        contextlib.closing(Seen()) as seen,
        contextlib.closing(Seen()) as made,
    ):
        for row in read_rows(source, row_of(form.part)):
            talk = talk_of(row)
            if (reason := _reason(row, talk, form, choice.min_p)) is not None:
                left_out[reason] += 1
                continue
            digest = _digest([[turn.role, turn.content] for turn in talk.prompt])
            facts.add(row, talk, seen.add(digest))
            split: Split = "eval" if _share(digest) < choice.eval_share else "train"
            for one in form.make(row):
                if form.unique and not made.add(_digest([one["prompt"], one["completion"], one["label"]])):
                    left_out["duplicate"] += 1
                    continue
                files.write(split, one)
                rows[split] += 1
    return dict(rows), dict(sorted(left_out.items()))


def _reason(row: DatasetRow, talk: Talk, form: Format, min_p: float | None) -> str | None:
    """Why a row is left out; None where the format holds it."""
    if not is_unicode(row):
        return "lone_surrogate"
    if isinstance(row, Pair):
        if row.p is None and (form.labelled or min_p is not None):
            return "no_p"
        if row.p is not None and min_p is not None and row.p < min_p:
            return "below_min_p"
    return next((reason for check in form.checks if (reason := check(talk))), None)


def _why_nothing(rows: dict[Split, int], left_out: dict[str, int], choice: Choice) -> str:
    if rows["eval"]:
        return f"all {rows['eval']} rows fall into the eval split; give --eval-share 0"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in left_out.items())
    return f"no row is left for the format {choice.format} ({reasons or 'the file is empty'})"


def _put(building: Path, out: Path) -> None:
    """Rename the new folder into place, unless the one there has the same files."""
    with guard(out):
        for path in building.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(building)
        if whole_json(out / RECORD) == read_json(building / RECORD) and out.is_dir() and _whole(out):
            return
        old = building.with_suffix(".old")
        if out.is_dir():
            out.rename(old)
        building.rename(out)
        sync_folder(out.parent)
        shutil.rmtree(old, ignore_errors=True)


def _whole(out: Path) -> bool:
    """Whether the files of an earlier export are still those that it wrote."""
    return all(file_sha256(out / name) == sha256 for name, sha256 in read_json(out / RECORD)["files"].items())


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).digest()


def _share(digest: bytes) -> float:
    """Where a prompt stands between 0 and 1; rows of one prompt share a split, in every format and version."""
    return int.from_bytes(digest[:8], "big") / 2**64
