"""What changed between two runs, or since the last edit of the constitution: rows side by side, word by word."""

from __future__ import annotations

from typing import NamedTuple, get_args

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cai.constitution.diff import Change as Edit
from cai.constitution.diff import compare as compare_constitutions
from cai.errors import CaiError, ConfigError
from cai.report.edit_view import change_line
from cai.report.words import Piece
from cai.rows import Demonstration, Judgment, Pair, Prompt, Reply, Revision, Row
from cai.runfolder.previous import effective, stored_constitution
from cai.view.compare_rows import (
    CHANGES,
    Asked,
    Changed,
    Compared,
    asked_for,
    changed_rows,
    counts_of,
    joined,
)
from cai.view.index import Index
from cai.view.pages import link, render
from cai.view.query import choices_of
from cai.view.read import read_row
from cai.view.state import View, ViewDep
from cai.view.story_rows import diff_of

router = APIRouter()


class Text(NamedTuple):
    """One text of a row in both versions; `diff` None where one has no such row, or both are the same."""

    name: str
    was: str | None
    now: str | None
    diff: list[Piece] | None


class Both(NamedTuple):
    """A row that changed, with its texts."""

    changed: Changed
    id: str
    asked: str
    texts: list[Text]


@router.get("/compare")
def compare(request: Request, view: ViewDep) -> Response:
    """A page of rows that changed. Raises ConfigError where there is nothing to compare with."""
    if view.other is None:
        raise ConfigError("there is nothing to compare with; start cai view RUN --against OTHER")
    tables = [name for name in get_args(Compared) if name in view.other.files]
    wanted = asked_for(request.query_params, tables)
    if view.index.waiting or view.other.waiting:
        return render(request, "compare.html.j2", wanted=wanted, waiting=True, edits=_edits(view))
    path = joined(view.index, view.other, wanted.table)
    rows, more = changed_rows(path, view.index, wanted)
    counts = counts_of(path, view.index, wanted)
    return render(
        request,
        "compare.html.j2",
        wanted=wanted,
        waiting=False,
        edits=_edits(view),
        rows=[_both(view.index, view.other, wanted, row) for row in rows],
        counts=counts,
        count=counts.get(wanted.change, 0) if wanted.change else sum(counts.values()),
        titles=CHANGES,
        tables=tables,
        choices=choices_of(view.index, wanted.table),
        next=link("/compare", **wanted.query(after=rows[-1].number)) if more else None,
        first=link("/compare", **wanted.query()) if wanted.after is not None else None,
    )


def _edits(view: View) -> list[str]:
    """What is different in the constitutions, a line each."""
    assert view.settings.against is not None
    try:
        changes: list[Edit] = effective(
            compare_constitutions(stored_constitution(view.settings.against), view.constitution)
        )
    except CaiError as error:
        return [str(error)]
    return [change_line(change.model_dump(mode="json")) for change in changes]


def _both(index: Index, other: Index, wanted: Asked, changed: Changed) -> Both:
    now = read_row(index, wanted.table, changed.now) if changed.now else None
    was = read_row(other, wanted.table, changed.was) if changed.was else None
    new, old = (_texts(row) if row else {} for row in (now, was))
    texts = []
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        both = before is not None and after is not None and before != after
        texts.append(Text(name, before, after, diff_of(before or "", after or "") if both else None))
    found = changed.now or changed.was
    assert found is not None
    return Both(changed, found.id, _prompt(now or was), texts)


def _texts(row: Row) -> dict[str, str]:
    """The texts of a row by which its versions are compared."""
    match row:
        case Prompt():
            return {"prompt": row.messages[-1].content}
        case Reply():
            return {"reply": row.text}
        case Revision():
            return {"revision": row.final}
        case Judgment():
            return {"a": row.a.text, "b": row.b.text}
        case Pair():
            return {"chosen": row.chosen[-1].content, "rejected": row.rejected[-1].content}
        case Demonstration():
            return {"completion": row.completion[-1].content}
    raise AssertionError(f"{type(row).__name__} rows are not compared")


def _prompt(row: Row | None) -> str:
    match row:
        case Revision():
            return row.reply.prompt.messages[-1].content
        case Reply() | Judgment():
            return row.prompt.messages[-1].content
        case Pair() | Demonstration():
            return row.prompt[-1].content
    return ""
