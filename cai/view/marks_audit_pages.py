"""The audit in the browser: its plan, what has come of it, and blind marking of one row after another."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cai.errors import ConfigError
from cai.marks.bounds import sample_size
from cai.marks.figures import audit_figures, next_place
from cai.marks.mark import add_mark, make_mark, pair_digest, read_marks
from cai.marks.plan import Audit, answer_of, make_plan, read_audit, swapped
from cai.marks.sample import Of, Place, population, read_place
from cai.view.marks_pages import Form, author_of, check_unchanged, field, remember_author
from cai.view.pages import go, render
from cai.view.state import View, ViewDep

router = APIRouter()
MARGINS = (10, 5, 3, 2)  # points for which the page tells the size beforehand


@router.get("/audit")
def audit(request: Request, view: ViewDep) -> Response:
    """The plan and what has come of it; without a plan, what other plans would take."""
    planned = read_audit(view.root)
    there = planned.drawn if planned else population(view.root)
    figures = audit_figures(planned, read_marks(view.root).rows) if planned else None
    sizes = {
        of: [(margin, sample_size(margin / 100, there.size(of))) for margin in MARGINS]
        for of in ("labelled", "scored")
        if there.size(of)
    }
    return render(request, "audit.html.j2", planned=planned, figures=figures, there=there, sizes=sizes)


@router.post("/audit")
def plan(request: Request, view: ViewDep, fields: Form) -> Response:
    """Make a plan, in place of the one that there was."""
    of: Of = "scored" if fields.get("of") == "scored" else "labelled"
    make_plan(
        view.root,
        of=of,
        margin=_number(fields, "margin") / 100,
        expected=_number(fields, "expected"),
        seed=int(_number(fields, "seed")),
        author=author_of(request),
    )
    return go("/audit")


@router.get("/audit/next")
def blind(request: Request, view: ViewDep, stage: str = "", row: str = "") -> Response:
    """The next row of the sample, without what the judge said about it; or one of it to be marked again."""
    planned, author = _planned(view), author_of(request)
    marks = read_marks(view.root).rows
    place, done = next_place(planned, marks, author)
    if stage or row:
        place = _in_sample(planned, stage, row)
    own = [one for one in marks if one.blind and one.author == author]
    context: dict[str, Any] = {"place": place, "done": done, "size": len(planned.sample)}
    if place is not None:
        judged = read_place(place)
        sides = [judged.a.text, judged.b.text]
        context |= {
            "turns": judged.prompt.messages,
            "sides": sides[::-1] if swapped(planned.plan.seed, place.key) else sides,
            "pair": pair_digest(judged),
        }
    keys = {one.key for one in planned.sample}
    last = next((one for one in reversed(own) if (one.stage, one.row) in keys), None)
    return render(request, "blind.html.j2", last=last, **context)


@router.post("/audit/mark")
def choose(view: ViewDep, fields: Form) -> Response:
    """Add a blind mark, and go on to the next row."""
    planned = _planned(view)
    place = _in_sample(planned, field(fields, "stage"), field(fields, "row"))
    answer = answer_of(fields.get("choice", ""), planned.plan.seed, place.key)
    if answer is None:
        raise ConfigError(f"choice {fields.get('choice', '')!r}: press one of the buttons")
    row = read_place(place)
    check_unchanged(row, fields)
    author, note = field(fields, "author"), fields.get("note", "")
    made = make_mark(place.stage, row, answer, author=author, note=note, blind=True)
    add_mark(view.root, made)
    return remember_author(go("/audit/next"), made.author)


def _planned(view: View) -> Audit:
    found = read_audit(view.root)
    if found is None:
        raise ConfigError("no audit is planned; plan one on the page audit")
    return found


def _in_sample(planned: Audit, stage: str, row: str) -> Place:
    for place in planned.sample:
        if place.key == (stage, row):
            return place
    raise ConfigError(f"row {row!r}: not in the audit's sample (any more); go on with the next one")


def _number(fields: dict[str, str], name: str) -> float:
    text = field(fields, name)
    try:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
    except ValueError as error:
        raise ConfigError(f"{name} {text!r}: not a number; write one like 5 or 0.9") from error
    return value
