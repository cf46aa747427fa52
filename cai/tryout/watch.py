"""The saves of a constitution file and of all that it extends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import Change, awatch

from cai.document import read_document

SETTLED_MS = 50  # an editor's delete, create and rename are one save
AT_LEAST_MS = 1000  # how often the files are read whatever the system tells, which some file systems never do

Contents = dict[Path, bytes]


def contents(file: Path) -> Contents:
    """The bytes of a constitution file and of all that it extends; empty for one that is not there."""
    found: Contents = {}
    left = [file]
    while left:
        path = left.pop().resolve()
        if path in found:
            continue
        try:
            found[path] = path.read_bytes()
        except OSError:
            found[path] = b""
            continue
        document = read_document(path)
        left += [path.parent / name for name in (document.file.extends if document.file else ())]
    return found


async def saves(file: Path, seen: Contents) -> AsyncIterator[None]:
    """One item for each change since `seen`, which is of `contents`; a save that changes nothing is none."""
    while True:
        files = frozenset(seen) | frozenset(contents(file))

        def ours(change: Change, path: str, files: frozenset[Path] = files) -> bool:
            return Path(path).resolve() in files

        async for _ in awatch(
            *{path.parent for path in files if path.parent.is_dir()},
            watch_filter=ours,
            step=SETTLED_MS,
            rust_timeout=AT_LEAST_MS,
            yield_on_timeout=True,
            recursive=False,
        ):
            now = contents(file)
            if now != seen:
                seen = now
                yield
                break
