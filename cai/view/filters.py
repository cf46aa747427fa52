"""What a table shows, as its address says it: filters, order and place. Whatever an address holds, it is this or a
one-line error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast, get_args

from cai.errors import ConfigError
from cai.view.index_rows import Table, utf8

Field = Literal["tag", "principle", "state", "model", "kind", "source", "stage"]
Sort = Literal["id", "sure", "unsure", "long", "short"]
FIELDS: Mapping[Table, tuple[Field, ...]] = {
    "prompts": ("tag", "source", "stage"),
    "replies": ("tag", "state", "model", "source", "stage"),
    "revisions": ("principle", "tag", "state", "model", "source"),
    "judgments": ("principle", "tag", "state", "model", "kind", "source", "stage"),
    "verdicts": ("principle", "tag", "state", "model", "kind", "source", "stage"),
    "pairs": ("principle", "tag", "kind", "stage"),
    "demonstrations": ("tag", "kind"),
    "drops": ("state", "kind"),
}
COLUMN: Mapping[Field, str] = {"tag": "tags", "principle": "principles", "model": "models"}
SCORED: tuple[Table, ...] = ("judgments", "verdicts", "pairs")  # rows that have a confidence
SORTS: Mapping[Sort, str] = {
    "id": "id",
    "sure": "most confident first",
    "unsure": "least confident first",
    "long": "longest first",
    "short": "shortest first",
}
STATES: Mapping[Table, tuple[str, ...]] = {
    "judgments": ("labelled", "below_threshold", "inconsistent", "tie", "unparsed", "refused"),
    "verdicts": ("read", "unparsed", "refused"),
    "revisions": ("revised", "unchanged", "no_violation"),
}
NAMES: Mapping[Table, Mapping[Field, str]] = {
    "replies": {"state": "finish reason"},
    "judgments": {"kind": "compares", "model": "judge"},
    "verdicts": {"kind": "order", "model": "judge"},
    "pairs": {"kind": "made of"},
    "demonstrations": {"kind": "made of"},
    "drops": {"state": "reason", "kind": "dropped in"},
}
_PLACE = re.compile(r"([0-9]{1,15})\.([0-9]{1,6})\.([0-9]{1,6})\.(.+)", re.DOTALL)
MOST = 1000  # characters of a value in an address


class Place(NamedTuple):
    """Where a row lies: what a page goes on from."""

    stage: str
    shard: int
    start: int
    part: int

    def __str__(self) -> str:
        return f"{self.start}.{self.part}.{self.shard}.{self.stage}"


class Filters(NamedTuple):
    """What to show of a table. `low`, `high`: of the confidence; `after`, `before`: the row to go on from."""

    table: Table
    values: tuple[tuple[Field, str], ...] = ()
    low: float | None = None
    high: float | None = None
    q: str = ""
    sort: Sort = "id"
    after: Place | None = None
    before: Place | None = None

    def query(self, **changes: object) -> dict[str, object]:
        """The parameters of the address that says this, without the place, with `changes`."""
        found: dict[str, object] = dict(self.values)
        found |= {
            "low": self.low,
            "high": self.high,
            "q": self.q,
            "sort": "" if self.sort == "id" else self.sort,
        }
        return found | changes

    def value(self, field: str) -> str:
        """What a field must be; empty where it may be anything."""
        return dict[str, str](self.values).get(field, "")


def table_named(name: str) -> Table:
    """The table of this name. Raises ConfigError."""
    if name not in FIELDS:
        raise ConfigError(f"there is no table {name!r}; there are {', '.join(FIELDS)}")
    return cast(Table, name)


def filters_of(table: Table, given: Mapping[str, str]) -> Filters:
    """What an address asks for. Raises ConfigError for what it cannot mean; unknown names are passed over."""
    for name, value in given.items():
        if len(value) > MOST:
            raise ConfigError(f"{name}: longer than {MOST} characters; shorten it")
    for field in COLUMN.keys() | {"state", "kind", "source", "stage"}:
        if given.get(field) and field not in FIELDS[table]:
            raise ConfigError(f"{field}: {table} have none; they have {', '.join(FIELDS[table])}")
    values = tuple((field, utf8(given[field])) for field in FIELDS[table] if given.get(field))
    low, high = (_probability(name, given.get(name, ""), table) for name in ("low", "high"))
    if low is not None and high is not None and low > high:
        raise ConfigError(f"low {low:g} is above high {high:g}; exchange them")
    sort = given.get("sort") or "id"
    if sort not in SORTS or (sort in ("sure", "unsure") and table not in SCORED):
        known = [name for name in get_args(Sort) if table in SCORED or name not in ("sure", "unsure")]
        raise ConfigError(f"sort: {sort!r} is no order of {table}; there are {', '.join(known)}")
    after, before = (_place(name, given.get(name, "")) for name in ("after", "before"))
    return Filters(
        table, values, low, high, utf8(given.get("q", "").strip()), cast(Sort, sort), after, before
    )


def _probability(name: str, text: str, table: Table) -> float | None:
    if not text.strip():
        return None
    if table not in SCORED:
        raise ConfigError(f"{name}: {table} have no confidence; {', '.join(SCORED)} have")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: {text!r} is no confidence; give a number from 0 to 1")
    return value


def _place(name: str, text: str) -> Place | None:
    if not text:
        return None
    found = _PLACE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{name}: {text!r} is no place in a table; begin at its first page")
    return Place(utf8(found[4]), int(found[3]), int(found[1]), int(found[2]))
