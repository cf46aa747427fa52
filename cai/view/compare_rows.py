"""Two runs, or two versions of one: which rows changed, joined once by id into a file beside the index.

A row is told from its other version by digests of its texts, its state and its p, all of which the index holds; only
rows that changed are kept. Duplicates of an id cannot be: a run has each once in a stage.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from cai.errors import ConfigError
from cai.store import guard
from cai.view.filters import MOST
from cai.view.index import Index
from cai.view.index_file import VERSION
from cai.view.index_rows import Table, utf8
from cai.view.query import Found

Compared = Literal["prompts", "replies", "revisions", "judgments", "pairs", "demonstrations"]
Change = Literal["rewritten", "flipped", "state", "p_moved", "added", "removed"]
CHANGES: Mapping[Change, str] = {
    "rewritten": "other texts",
    "flipped": "label for the other side",
    "state": "other state",
    "p_moved": "same label, other p",
    "added": "only in this run",
    "removed": "only in the other run",
}
ROWS = 25  # of a page
_SIDE = "CASE WHEN {0}.state = 'labelled' OR {0}.state = '' THEN {0}.p > 0.5 END"
_CHANGE = f"""CASE
  WHEN o.id IS NULL THEN 'added' WHEN n.id IS NULL THEN 'removed'
  WHEN n.one = o.two AND n.two = o.one AND n.one <> n.two THEN 'flipped'
  WHEN n.one <> o.one OR n.two <> o.two THEN 'rewritten'
  WHEN ({_SIDE.format("n")}) <> ({_SIDE.format("o")}) THEN 'flipped'
  WHEN n.state <> o.state THEN 'state'
  WHEN n.p IS DISTINCT FROM o.p THEN 'p_moved' END"""
_JOIN = f"""
COPY (
  WITH n AS (SELECT * EXCLUDE (text) FROM read_parquet($2)), o AS (SELECT * EXCLUDE (text) FROM read_parquet($3)),
  pairs AS (
    SELECT {_CHANGE} AS change, coalesce(n.id, o.id) AS id, coalesce(n.stage, o.stage) AS stage,
      coalesce(abs(n.p - o.p), 0) AS moved, coalesce(n.tags, o.tags) AS tags,
      list_concat(n.principles, o.principles) AS principles,
      {", ".join(f"{side}.{cell} AS {side}_{cell}" for side in ("n", "o") for cell in Found._fields)}
    FROM n FULL JOIN o ON n.id = o.id AND n.stage = o.stage
  )
  SELECT row_number() OVER (ORDER BY id, stage) AS number, * FROM pairs WHERE change IS NOT NULL
) TO $1 (FORMAT parquet, COMPRESSION lz4)"""


class Asked(NamedTuple):
    """What an address asks of a comparison. `by`: rows whose p moved by at least that."""

    table: Compared
    change: Change | None
    tag: str
    principle: str
    by: float | None
    q: str
    largest: bool
    after: int | None

    def query(self, **changes: object) -> dict[str, object]:
        """The parameters of the address that says this, without the place, with `changes`."""
        found = {"table": self.table, "change": self.change, "tag": self.tag, "principle": self.principle}
        return found | {"by": self.by, "q": self.q, "sort": "moved" if self.largest else ""} | changes


class Changed(NamedTuple):
    """A row that changed, in both versions; None where one has no such row."""

    number: int
    change: Change
    now: Found | None
    was: Found | None


def asked_for(given: Mapping[str, str], tables: Sequence[str]) -> Asked:
    """What an address asks for; `tables`: that the other run has. Raises ConfigError for what it cannot mean."""
    for name, value in given.items():
        if len(value) > MOST:
            raise ConfigError(f"{name}: longer than {MOST} characters; shorten it")
    first = "judgments" if "judgments" in tables or not tables else tables[0]
    table, change = given.get("table") or first, given.get("change") or None
    if table not in (*tables, first):
        raise ConfigError(
            f"table: {table!r} cannot be compared; the other run has {', '.join(tables) or 'no rows'}"
        )
    if change is not None and change not in CHANGES:
        raise ConfigError(f"change: there is no {change!r}; there are {', '.join(CHANGES)}")
    by, after = given.get("by", "").strip(), given.get("after", "")
    try:
        moved = float(by) if by else None
    except ValueError:
        moved = math.nan
    if moved is not None and not 0 <= moved <= 1:
        raise ConfigError(f"by: {by!r} is no difference of two probabilities; give a number from 0 to 1")
    if after and not (after.isascii() and after.isdigit() and len(after) < 16):
        raise ConfigError(f"after: {after!r} is no place in a comparison; begin at its first page")
    if given.get("sort", "") not in ("", "moved"):
        raise ConfigError(f"sort: {given['sort']!r} is no order of a comparison; there is moved")
    texts = [utf8(given.get(name, "").strip()) for name in ("tag", "principle", "q")]
    return Asked(
        cast(Compared, table), cast("Change | None", change), texts[0], texts[1], moved, texts[2],
        given.get("sort") == "moved", int(after) if after else None,
    )  # fmt: skip


def joined(index: Index, other: Index, table: Table) -> Path:
    """The file of the rows of a table that changed, made where it is not there yet."""
    new, old = ([str(piece.target) for piece in one.files.get(table, ())] for one in (index, other))
    stamp = hashlib.blake2b(repr((new, old)).encode(), digest_size=12).hexdigest()
    path = index.folder / f"v{VERSION}" / "compare" / f"{table}-{stamp}.parquet"
    if not path.exists():
        part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        with guard(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                index.asked(_JOIN, [str(part), new, old])
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    return path


def changed_rows(path: Path, index: Index, wanted: Asked) -> tuple[list[Changed], bool]:
    """The rows of a page, by id or the largest difference of p first; whether there are more. Raises ConfigError."""
    where, values = _conditions(index, wanted)
    if wanted.after is not None:
        at = index.asked("SELECT moved FROM read_parquet(?) WHERE number = ?", [[str(path)], wanted.after])
        if not at:
            raise ConfigError(
                "the row that this page goes on from is not there any more; begin at the first page"
            )
        where.append("(-moved > ? OR (-moved = ? AND number > ?))" if wanted.largest else "number > ?")
        values += [-at[0][0], -at[0][0], wanted.after] if wanted.largest else [wanted.after]
    cells = ", ".join(f"{side}_{cell}" for side in ("n", "o") for cell in Found._fields)
    order = "-moved, number" if wanted.largest else "number"
    sql = f"SELECT number, change, {cells} FROM read_parquet(?) {_where(where)} ORDER BY {order} LIMIT {ROWS + 1}"
    found = index.asked(sql, [[str(path)], *values])
    rows = [Changed(row[0], row[1], *_versions(row[2:])) for row in found[:ROWS]]
    return rows, len(found) > ROWS


def counts_of(path: Path, index: Index, wanted: Asked) -> dict[str, int]:
    """How many rows changed in each way, under the other filters."""
    where, values = _conditions(index, wanted._replace(change=None))
    sql = f"SELECT change, count(*) FROM read_parquet(?) {_where(where)} GROUP BY change"
    return dict(
        index.kept((path, *where, *map(str, values)), lambda: index.asked(sql, [[str(path)], *values]))
    )


def _conditions(index: Index, wanted: Asked) -> tuple[list[str], list[object]]:
    where: list[str] = []
    values: list[object] = []
    for clause, value in (
        ("change = ?", wanted.change),
        ("list_contains(tags, ?)", wanted.tag or None),
        ("list_contains(principles, ?)", wanted.principle or None),
        ("moved >= ?", wanted.by),
    ):
        if value is not None:
            where.append(clause)
            values.append(value)
    if wanted.q:
        where.append("id IN (SELECT id FROM read_parquet(?) WHERE contains(text, ?))")
        values += [[str(piece.target) for piece in index.files.get(wanted.table, ())], wanted.q.lower()]
    return where, values


def _where(where: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(where)}" if where else ""


def _versions(cells: Sequence[Any]) -> tuple[Found | None, Found | None]:
    """The two halves of a row of the file."""
    half = len(Found._fields)
    now, was = cells[:half], cells[half:]
    return Found(*now) if now[0] is not None else None, Found(*was) if was[0] is not None else None
