"""One published file of rows → one Parquet file of the index, in one pass and bounded memory."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cai.errors import StoreError
from cai.given import open_given
from cai.store import guard
from cai.view.index_rows import ENTRIES, Entry, Table, columns, parse, table_of

VERSION = 3  # of the index files: another one is built again
GROUP_ROWS = 50_000  # a row group of an index file, or …
GROUP_CHARS = 1 << 24  # … so much text, whichever comes first


class Piece(NamedTuple):
    """A published file and the index file made of it, which is named after the bytes that it was made of."""

    table: Table
    stage: str
    shard: int
    source: Path
    target: Path
    size: int


def pieces_of(run: Path, folder: Path) -> list[Piece]:
    """All that a run has published, in the order of stages and shards."""
    found = []
    for path in sorted((*run.glob("*/rows-*.jsonl"), *run.glob("*/drops-*.jsonl"))):
        kind, _, number = path.stem.partition("-")
        stage = path.parent.name
        table = table_of(stage) if kind == "rows" else "drops"
        if table is None or not (number.isascii() and number.isdigit()) or stage.startswith("."):
            continue
        for one in (table, "verdicts") if table == "judgments" else (table,):
            if (piece := _piece(one, stage, int(number), path, folder)) is not None:
                found.append(piece)
    return found


def _piece(table: Table, stage: str, shard: int, source: Path, folder: Path) -> Piece | None:
    try:
        stat = source.stat()
    except FileNotFoundError:  # a run that is being written
        return None
    stamp = hashlib.blake2b(f"{stat.st_size} {stat.st_mtime_ns}".encode(), digest_size=8).hexdigest()
    name = hashlib.blake2b(stage.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    target = folder / f"v{VERSION}" / table / f"{name}-{shard:05d}-{stamp}.parquet"
    return Piece(table, stage, shard, source, target, stat.st_size)


def build(piece: Piece) -> int:
    """Write the index file of a published file; gives its rows. Raises StoreError naming `file:line`."""
    import pyarrow
    import pyarrow.parquet

    strings, ints = pyarrow.string(), pyarrow.int64()
    names = pyarrow.list_(strings)
    kinds = dict.fromkeys(Entry._fields, strings) | {
        "part": pyarrow.int32(), "tags": names, "principles": names, "models": names, "p": pyarrow.float64(),
        "confidence": pyarrow.float64(), "length": pyarrow.int32(), "one": ints, "two": ints,
    }  # fmt: skip
    kinds |= {"stage": strings, "shard": pyarrow.int32(), "start": ints, "size": pyarrow.int32()}
    schema = pyarrow.schema(list(kinds.items()))
    part = piece.target.with_name(f".{piece.target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    rows = 0
    with guard(piece.target):
        piece.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pyarrow.parquet.ParquetWriter(part, schema, compression="lz4") as writer:
                for group in _groups(piece):
                    entries = [entry for entry, _, _ in group]
                    cells = columns(entries)
                    cells["stage"] = [piece.stage.encode("utf-8", "replace").decode()] * len(group)
                    cells["shard"] = [piece.shard] * len(group)
                    cells["start"], cells["size"] = [at for _, at, _ in group], [size for _, _, size in group]
                    writer.write_table(
                        pyarrow.Table.from_pydict(cells, schema=schema), row_group_size=len(group)
                    )
                    rows += len(group)
            part.replace(piece.target)
        finally:
            part.unlink(missing_ok=True)
    return rows


def _groups(piece: Piece) -> Iterator[list[tuple[Entry, int, int]]]:
    """The rows of a file with the byte where each begins and its length, some at a time."""
    make = ENTRIES[piece.table]
    group: list[tuple[Entry, int, int]] = []
    at = chars = 0
    with guard(piece.source), open_given(piece.source) as file:
        for number, line in enumerate(file, 1):
            try:
                for entry in make(parse(line)):
                    group.append((entry, at, len(line)))
                    chars += len(entry.text)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                problem = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise StoreError(
                    f"{piece.source}:{number}: not a row of {piece.table} ({problem})"
                ) from error
            at += len(line)
            if len(group) >= GROUP_ROWS or chars >= GROUP_CHARS:
                yield group
                group, chars = [], 0
    if group:
        yield group
