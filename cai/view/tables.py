"""The tables: overview, and pages of rows under filters that stand in the address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cai.rows import Demonstration, Drop, Judgment, Message, Pair, Prompt, Reply, Revision, Row
from cai.view.filters import FIELDS, NAMES, SCORED, SORTS, Field, Filters, filters_of, table_named
from cai.view.index import Index
from cai.view.pages import link, render
from cai.view.query import Found, check, choices_of, count_of, page_of
from cai.view.read import read_row
from cai.view.state import ViewDep

router = APIRouter()
EXCERPT = 280  # characters of a text in a table


class Line(NamedTuple):
    """A row as a table shows it. `texts`: (what it is, beginning of the text)."""

    found: Found
    texts: list[tuple[str, str]]
    tags: tuple[str, ...]
    principles: tuple[str, ...]
    models: tuple[str, ...]


@router.get("/")
def overview(request: Request, view: ViewDep) -> Response:
    """What the run has, table by table."""
    counts = {table: count_of(view.index, Filters(table)) for table in FIELDS}
    states = {table: choices_of(view.index, table).get("state", []) for table in FIELDS}
    return render(request, "overview.html.j2", counts=counts, states=states)


@router.get("/table/{name}")
def table(request: Request, view: ViewDep, name: str) -> Response:
    """A page of a table. Raises ConfigError for filters that mean nothing."""
    filters = filters_of(table_named(name), request.query_params)
    check(view.index, filters)
    page = page_of(view.index, filters)
    lines = [_line(view.index, filters, found) for found in page.rows]
    path = f"/table/{filters.table}"
    return render(
        request,
        "table.html.j2",
        filters=filters,
        lines=lines,
        count=count_of(view.index, filters, page),
        whole=count_of(view.index, Filters(filters.table)),
        choices=choices_of(view.index, filters.table),
        titles=titles_of(filters),
        sorts={name: title for name, title in SORTS.items() if filters.table in SCORED or "sure" not in name},
        scored=filters.table in SCORED,
        first=link(path, **filters.query()) if page.more_before else None,
        previous=link(path, **filters.query(before=page.rows[0].place))
        if page.more_before and page.rows
        else None,
        next=link(path, **filters.query(after=page.rows[-1].place))
        if page.more_after and page.rows
        else None,
    )


def titles_of(filters: Filters) -> Mapping[Field, str]:
    """What the fields of a table are called."""
    return {field: NAMES.get(filters.table, {}).get(field, field) for field in FIELDS[filters.table]}


def _line(index: Index, filters: Filters, found: Found) -> Line:
    row = read_row(index, filters.table, found)
    if filters.table == "verdicts":
        assert isinstance(row, Judgment)
        verdict = row.verdicts[found.part]
        texts = [("prompt", _last(row.prompt.messages))]
        return Line(found, _cut(texts), row.prompt.tags, (verdict.principle,), (verdict.judge,))
    return Line(found, _cut(_texts(row)), *_named(row))


def _texts(row: Row) -> Iterator[tuple[str, str]]:
    """The texts of a row that a table shows."""
    match row:
        case Prompt():
            yield "prompt", _last(row.messages)
        case Reply():
            yield from (("prompt", _last(row.prompt.messages)), ("reply", row.text))
        case Revision():
            yield from (("prompt", _last(row.reply.prompt.messages)), ("reply", row.reply.text))
            if row.changed:
                yield "revision", row.final
        case Judgment():
            yield from (("prompt", _last(row.prompt.messages)), ("a", row.a.text), ("b", row.b.text))
        case Pair():
            yield from (("prompt", _last(row.prompt)), ("chosen", row.chosen[-1].content))
            yield "rejected", row.rejected[-1].content
        case Demonstration():
            yield from (("prompt", _last(row.prompt)), ("completion", row.completion[-1].content))
        case Drop():
            yield "detail", row.detail


def _named(row: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Tags, principles and models of a row."""
    match row:
        case Reply():
            return row.prompt.tags, (), (row.model,)
        case Revision():
            met = tuple(done.principle for done in row.rounds)
            return row.reply.prompt.tags, met, (row.reply.model,)
        case Judgment():
            principles = dict.fromkeys(verdict.principle for verdict in row.verdicts)
            judges = dict.fromkeys(verdict.judge for verdict in row.verdicts)
            return row.prompt.tags, tuple(principles), tuple(judges)
        case Pair():
            return row.tags, row.principles, ()
        case Drop():
            return (), (), ()
    return row.tags, (), ()


def _last(turns: tuple[Message, ...]) -> str:
    return turns[-1].content if turns else ""


def _cut(texts: Any) -> list[tuple[str, str]]:
    return [
        (name, text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…") for name, text in texts if text
    ]
