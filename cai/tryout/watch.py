"""The saves of a constitution file and of all that it extends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from watchfiles import Change, awatch

from cai.constitution.document import read_document

SETTLED_S = 0.05  # what has not changed for so long is not half a save
AT_LEAST_MS = 1000  # how often the files are read whatever the system tells, which some file systems never do

Contents = dict[Path, bytes]


def contents(file: Path) -> Contents:
    """The bytes of a constitution file and of all that it extends; empty for one that is not there."""
    found: Contents = {}
    left = [file]
    while left:
        path = left.pop()
        try:
            path = path.resolve()
            if path in found:
                continue
            there = path.is_file()
            found[path] = path.read_bytes() if there else b""
        except (OSError, ValueError, RuntimeError):  # gone meanwhile, or a name that no file can have
            continue
        document = read_document(path) if there else None
        extends = document.file.extends if document is not None and document.file is not None else ()
        left += [path.parent / name for name in extends]
    return found


async def saves(file: Path, seen: Contents) -> AsyncIterator[None]:
    """One item for each change since `seen`, which is of `contents`; a save that changes nothing is none."""
    while True:
        now = contents(file)
        if now != seen:
            await asyncio.sleep(SETTLED_S)
            if contents(file) == now:
                seen = now
                yield
            continue
        async with contextlib.aclosing(_events(frozenset(seen))) as events:
            async for _ in events:
                if contents(file) != seen:
                    break


def _events(files: frozenset[Path]) -> AsyncGenerator[set[tuple[Change, str]], None]:
    """What the system tells of these files, and nothing every AT_LEAST_MS."""
    return awatch(
        *{path.parent for path in files if path.parent.is_dir()},
        watch_filter=lambda _, path: Path(path).resolve() in files,
        step=int(1000 * SETTLED_S),
        rust_timeout=AT_LEAST_MS,
        yield_on_timeout=True,
        recursive=False,
    )
