"""From filters to SQL over the index: a page of a table, how many rows there are, and the values to choose from.

Pages go on from a row, never by counting rows off: the millionth page costs what the first one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cai.errors import ConfigError
from cai.view.filters import COLUMN, FIELDS, STATES, Field, Filters, Place, Sort
from cai.view.index import Index
from cai.view.index_rows import Table

ROWS = 50  # of a page
CHOICES = 300  # values of a field that are offered
KEYS: dict[Sort, str] = {
    "id": "",
    "sure": "coalesce(-confidence, 2)",
    "unsure": "coalesce(confidence, 2)",
    "long": "-length",
    "short": "length",
}
TIE = ("id", "stage", "shard", "start", "part")


class Found(NamedTuple):
    """What the index says of a row, and where it lies."""

    id: str
    stage: str
    shard: int
    start: int
    part: int
    size: int
    prompt: str
    state: str
    kind: str
    p: float | None
    confidence: float | None
    length: int

    @property
    def place(self) -> Place:
        """Where a page after this row begins."""
        return Place(self.stage, self.shard, self.start, self.part)


class Page(NamedTuple):
    """Some rows of a table; whether there are more before and after them. `version`: of the index that was asked."""

    version: int
    rows: list[Found]
    more_before: bool
    more_after: bool


def page_of(index: Index, filters: Filters, rows: int = ROWS) -> Page:
    """The rows of a page in order. Raises ConfigError where the row to go on from is not there any more."""
    version = index.version
    where, values = conditions(filters)
    key, back = KEYS[filters.sort], filters.before is not None
    place = filters.before or filters.after
    if place is not None:
        beyond, at = _beyond(index, filters, place, key, back)
        where, values = [*where, beyond], [*values, *at]
    names = (key, *TIE) if key else TIE
    order = ", ".join(f"{name} DESC" if back else name for name in names)
    found = select(index, filters.table, where, values, f"ORDER BY {order} LIMIT {rows + 1}")
    more = len(found) > rows
    shown = found[:rows][::-1] if back else found[:rows]
    return Page(version, shown, more if back else place is not None, True if back else more)


def select(
    index: Index, table: Table, where: Sequence[str], values: Sequence[object], rest: str = ""
) -> list[Found]:
    """Rows of a table in the index."""
    clause = f"WHERE {' AND '.join(where)}" if where else ""
    sql = f"SELECT {', '.join(Found._fields)} FROM read_parquet(?) {clause} {rest}"
    return [Found(*row) for row in _asked(index, table, sql, values)]


def count_of(index: Index, filters: Filters, page: Page | None = None) -> int:
    """How many rows there are; kept until files are added, so that turning pages does not count again.

    `page`: one of these rows; where it is all of them, nothing more is read.
    """
    if page is not None and not (page.more_before or page.more_after) and page.version == index.version:
        return len(page.rows)

    def count() -> int:
        where, values = conditions(filters)
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        found = _asked(index, filters.table, f"SELECT count(*) FROM read_parquet(?) {clause}", values)
        return found[0][0] if found else 0

    return index.kept(filters._replace(sort="id", after=None, before=None), count)


def choices_of(index: Index, table: Table) -> dict[Field, list[tuple[str, int]]]:
    """The values of each field with the rows that have them, the most frequent first."""

    def count() -> dict[Field, list[tuple[str, int]]]:
        found: dict[Field, list[tuple[str, int]]] = {}
        for field in FIELDS[table]:
            column = COLUMN.get(field, field)
            value = f"unnest({column})" if field in COLUMN else column
            sql = f"SELECT value, count(*) FROM (SELECT {value} AS value FROM read_parquet(?)) GROUP BY value"
            rows = _asked(index, table, f"{sql} ORDER BY 2 DESC, 1 LIMIT {CHOICES}", ())
            found[field] = [(str(name), count) for name, count in rows if name]
        return found

    return index.kept(("choices", table), count)


def check(index: Index, filters: Filters) -> None:
    """Raise ConfigError where a value is none that rows of this table have, and the index is whole."""
    for field, value in filters.values:
        known = [name for name, _ in choices_of(index, filters.table)[field]]
        known += [name for name in STATES.get(filters.table, ()) if field == "state" and name not in known]
        if value not in known and len(known) < CHOICES and not index.waiting:
            some = ", ".join(known[:12]) + (", …" if len(known) > 12 else "") if known else "nothing"
            raise ConfigError(f"{field}: no {filters.table} have {value!r}; there is {some}")


def conditions(filters: Filters) -> tuple[list[str], list[object]]:
    """The WHERE of filters, without the place."""
    where: list[str] = []
    values: list[object] = []
    for field, value in filters.values:
        column = COLUMN.get(field, field)
        where.append(f"list_contains({column}, ?)" if field in COLUMN else f"{column} = ?")
        values.append(value)
    for bound, sign in ((filters.low, ">="), (filters.high, "<=")):
        if bound is not None:
            where.append(f"confidence {sign} ?")
            values.append(bound)
    if filters.q:
        where.append("contains(text, ?)")
        values.append(filters.q.lower())
    return where, values


def _beyond(index: Index, filters: Filters, place: Place, key: str, back: bool) -> tuple[str, list[object]]:
    """The rows that come after `place` (or before it) in the order of the filters."""
    sql = (
        f"SELECT {key or 0}, id FROM read_parquet(?) WHERE start = ? AND shard = ? AND part = ? AND stage = ?"
    )
    at = [place.start, place.shard, place.part, place.stage]
    found = _asked(index, filters.table, sql, at)
    if not found:
        raise ConfigError(
            "the row that this page goes on from is not there any more; begin at the first page"
        )
    value, id_ = found[0]
    sign = "<" if back else ">"
    tie = [id_, place.stage, place.shard, place.start, place.part]
    same = f"(id {sign} ? OR (id = ? AND (stage, shard, start, part) {sign} (?, ?, ?, ?)))"
    if not key:
        return same, [id_, *tie]
    return f"({key} {sign} ? OR ({key} = ? AND {same}))", [value, value, id_, *tie]


def _asked(index: Index, table: Table, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    """The rows of a query over the files of a table, its first parameter; none where there are no files."""
    files = [str(piece.target) for piece in index.files.get(table, ())]
    return index.asked(sql, [files, *values]) if files else []
