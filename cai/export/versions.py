"""Versions of a run's dataset: `versions/0001`, `0002` … in the run's folder, and `latest`, a link to the last one.

A version is a folder that `datasets.load_dataset` reads like the dataset itself, with the prompts, the config and the
constitution behind it, and `changes.json`: what is different from the version before. It appears whole or not at all,
and is never changed. Files are hard links: those of a run are replaced, never written into.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from cai.accounts.budget import unbudgeted
from cai.config import RunConfig
from cai.constitution import Constitution
from cai.errors import StoreError
from cai.export.changes import (
    Print,
    RowChanges,
    compare,
    demonstration_print,
    pair_print,
    prompt_print,
    stepwise_print,
)
from cai.export.dataset import part_file, parts_of, row_of
from cai.given import read_given
from cai.pipeline import rows_file
from cai.report.status import read_json
from cai.rows import Demonstration, Pair, Prompt, Row, Stepwise
from cai.store import decode, guard, link_or_copy, read_rows, sync_folder, write_json

LATEST = "latest"
PRINTS: dict[type[Row], Callable[[Any], Print]] = {
    Pair: pair_print,
    Demonstration: demonstration_print,
    Stepwise: stepwise_print,
}


class Stand(Row):
    """Which constitution it was."""

    name: str
    version: str
    digest: str


class Changes(Row):
    """`changes.json` of a version. `created`: UTC. `previous` and its constitution are None for the first one."""

    version: str
    previous: str | None
    created: str
    constitution: Stand
    previous_constitution: Stand | None
    prompts: RowChanges
    dataset: dict[str, RowChanges]

    @property
    def any(self) -> bool:
        """True where the dataset is another one."""
        return any(part.any for part in self.dataset.values())

    def line(self) -> str:
        """What changed, in one line."""
        found = [f"prompts {self.prompts.after:,} (+{self.prompts.added:,} −{self.prompts.removed:,})"]
        for name, part in self.dataset.items():
            found.append(
                f"{name} {part.after:,} (+{part.added:,} −{part.removed:,}, {part.relabelled:,} relabelled, "
                f"{part.rewritten:,} rewritten, {part.p_moved:,} with another p)"
            )
        return ", ".join(found)


def versions_of(root: Path) -> list[Path]:
    """The versions of a run, oldest first."""
    found = (path for path in (root / "versions").glob("[0-9]*") if path.name.isdigit() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name))


def read_changes(version: Path) -> Changes:
    """What a version changed. Raises StoreError."""
    path = version / "changes.json"
    with guard(path):
        try:
            return decode(read_given(path), Changes)
        except ValueError as error:
            raise StoreError(f"{path}: not the changes of a version of this release") from error


def publish_version(config: RunConfig) -> Changes:
    """Publish the run's dataset as its next version, where it is another one than the last; returns what changed.

    `Changes.any` tells whether there is a new version. Only for whoever holds the run. Killed anywhere, it leaves the
    version before or the new one, and does the rest the next time. Raises StoreError where the folder holds another
    config's rows, or an unfinished run.
    """
    root, folder = config.root, config.root / "versions"
    stored = read_json(root / "config.json")
    if stored is None or unbudgeted(stored) != unbudgeted(config.model_dump(mode="json")):
        raise StoreError(f"{root}: another run has changed the dataset in the meantime; start this one again")
    if (read_json(root / "summary.json") or {}).get("state") != "finished":
        raise StoreError(f"{root}: the run is not finished; a version is made of a whole dataset")
    with guard(folder):
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
    done = versions_of(root)
    previous = done[-1] if done else None
    if previous is not None:
        _link_latest(folder, previous.name)  # where the last one was killed before it
    changes = _changes(config, previous)
    if changes.any:
        _publish(config, changes)
    return changes


def _changes(config: RunConfig, previous: Path | None) -> Changes:
    root = config.root
    before = sorted((previous / "prompts").glob("rows-*.jsonl")) if previous else []
    dataset = {}
    for part in parts_of(config):
        files = [previous / part / "train.jsonl" if previous else None, part_file(root, part)]
        if any(path is not None and path.is_file() for path in files):
            dataset[part] = compare(*(_part(path, part) for path in files))
    return Changes(
        version=f"{int(previous.name) + 1 if previous else 1:04d}",
        previous=previous.name if previous else None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        constitution=_stand(root),
        previous_constitution=_stand(previous) if previous else None,
        prompts=compare(_prompts(before), _prompts(_prompt_files(config))),
        dataset=dataset,
    )


def _publish(config: RunConfig, changes: Changes) -> None:
    """Build the version under a name of its own, and rename it into place."""
    root, folder = config.root, config.root / "versions"
    building = folder / f".{changes.version}.{secrets.token_hex(4)}.tmp"
    with guard(folder):
        (building / "prompts").mkdir(parents=True)
        for part in parts_of(config):
            if (source := part_file(root, part)).is_file():
                (building / part).mkdir()
                link_or_copy(source, building / part / source.name)
        for path in (root / "dataset" / "README.md", root / "config.json", root / "constitution.json"):
            link_or_copy(path, building / path.name)
        for path in _prompt_files(config):
            link_or_copy(path, building / "prompts" / path.name)
        write_json(building / "changes.json", changes)
        for made in (*(path for path in building.iterdir() if path.is_dir()), building):
            sync_folder(made)
        building.rename(folder / changes.version)
        sync_folder(folder)
    _link_latest(folder, changes.version)


def _link_latest(folder: Path, name: str) -> None:
    link = folder / LATEST
    with guard(link):
        if link.is_symlink() and str(link.readlink()) == name:
            return
        temporary = folder / f".{LATEST}.{secrets.token_hex(4)}.tmp"
        temporary.symlink_to(name)
        temporary.replace(link)
        sync_folder(folder)


def _stand(folder: Path) -> Stand:
    path = folder / "constitution.json"
    with guard(path):
        found = decode(read_given(path), Constitution)
    return Stand(name=found.name, version=found.version, digest=found.digest)


def _prompt_files(config: RunConfig) -> list[Path]:
    return [rows_file(config.root, "prompts", shard) for shard in range(config.shards)]


def _prompts(paths: list[Path]) -> Iterator[Print]:
    return map(prompt_print, chain.from_iterable(read_rows(path, Prompt) for path in paths))


def _part(path: Path | None, part: str) -> Iterator[Print]:
    row = row_of(part)
    if path is None or not path.is_file():
        return iter(())
    return map(PRINTS[row], read_rows(path, row))
