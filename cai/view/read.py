"""The rows that a page shows, read from where the index says that they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cai.errors import StoreError
from cai.given import open_given
from cai.rows import Demonstration, Drop, Judgment, Pair, Prompt, Reply, Revision, Row
from cai.store import decode, explain, guard
from cai.view.index import Index
from cai.view.index_rows import Table, utf8
from cai.view.query import Found


class Stale(StoreError):
    """The run has published a file again since it was indexed."""


MODELS: Mapping[Table, type[Row]] = {
    "prompts": Prompt,
    "replies": Reply,
    "revisions": Revision,
    "judgments": Judgment,
    "verdicts": Judgment,
    "pairs": Pair,
    "demonstrations": Demonstration,
    "drops": Drop,
}


def read_row(index: Index, table: Table, found: Found) -> Row:
    """The whole row. Raises Stale where the run has published its file again in the meantime."""
    path = source_of(index, table, found)
    with guard(path), open_given(path) as file:
        file.seek(found.start)
        line = file.read(found.size)
    try:
        row = decode(line, MODELS[table])
    except ValueError as error:
        raise Stale(
            f"{path}: byte {found.start} is no row ({explain(error)}); load the page again"
        ) from error
    if utf8(getattr(row, "id")) != found.id:  # noqa: B009 - every row has an id, but Row says none
        raise Stale(f"{path}: published again since it was indexed; load the page again")
    return row


def source_of(index: Index, table: Table, found: Found) -> Path:
    """The published file that a row lies in."""
    for piece in index.files.get(table, ()):
        if piece.shard == found.shard and utf8(piece.stage) == found.stage:
            return piece.source
    raise Stale(f"{index.run}: {found.stage} has no shard {found.shard} any more; load the page again")
