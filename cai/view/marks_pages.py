"""Marks in the browser: the form on a row's story, the list of all marks, and their download."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, get_args
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from cai.errors import ConfigError
from cai.marks.export import exported
from cai.marks.mark import (
    MOST_AUTHOR,
    Answer,
    Mark,
    Verb,
    add_mark,
    leaning,
    make_mark,
    pair_digest,
    read_marks,
)
from cai.rows import Judgment
from cai.store import encode
from cai.view.index_rows import prompt_of
from cai.view.pages import environment, form, go, link, render
from cai.view.query import select
from cai.view.read import read_row
from cai.view.state import View, ViewDep

router = APIRouter()
Form = Annotated[dict[str, str], Depends(form)]
AUTHOR = "cai_author"  # cookie
YEAR_S = 365 * 24 * 3600
ROWS = 100  # of a page


class Filter(NamedTuple):
    """Which marks are listed; an empty text is any. `q`: contained in the note or the row's id."""

    mark: str = ""
    author: str = ""
    q: str = ""
    blind: str = ""

    def takes(self, mark: Mark) -> bool:
        """Whether a mark is like that."""
        folded = self.q.lower()
        return (
            self.mark in ("", mark.mark)
            and self.author in ("", mark.author)
            and (not self.blind or (self.blind == "yes") == mark.blind)
            and (folded in mark.note.lower() or folded in mark.row.lower())
        )


@router.post("/mark")
def mark(request: Request, view: ViewDep, fields: Form) -> Response:
    """Add the mark of a form of the story page, and go back there."""
    answer = fields.get("answer", "")
    if answer not in get_args(Answer):
        raise ConfigError(f"answer {answer!r}: press one of the buttons")
    stage, row_id = field(fields, "stage"), field(fields, "row")
    row = judged_row(view, stage, row_id)
    check_unchanged(row, fields)
    made = make_mark(stage, row, answer, author=field(fields, "author"), note=fields.get("note", ""))  # type: ignore[arg-type]
    add_mark(view.root, made)
    there = link("/story", prompt=fields.get("prompt") or prompt_of(row.id), row=row.id)
    return remember_author(go(there), made.author)


@router.get("/marks")
def marks(
    request: Request,
    view: ViewDep,
    mark: str = "",
    author: str = "",
    q: str = "",
    blind: str = "",
    page: int = 1,
) -> Response:
    """The marks that count, the newest first."""
    chosen, (rows, damaged) = Filter(mark, author, q, blind), read_marks(view.root)
    found = [one for one in reversed(rows) if chosen.takes(one)]
    pages = max(1, -(-len(found) // ROWS))
    page = min(max(page, 1), pages)

    def turned(number: int) -> str | None:
        return link("/marks", **chosen._asdict(), page=number) if 1 <= number <= pages else None

    return render(
        request,
        "marks.html.j2",
        filter=chosen,
        verbs=get_args(Verb),
        authors=sorted({one.author for one in rows}),
        rows=found[(page - 1) * ROWS : page * ROWS],
        count=len(found),
        whole=len(rows),
        damaged=damaged,
        prompt_of=prompt_of,
        previous=turned(page - 1),
        next=turned(page + 1),
    )


@router.get("/marks.jsonl")
def download(view: ViewDep, author: str = "", judge: str = "") -> Response:
    """The marks as labelled pairs with the judge's verdicts, as `cai marks export` writes them."""
    rows = [one for one in read_marks(view.root).rows if author in ("", one.author)]
    found = exported(view.root, view.config, view.constitution, rows, judge or None)
    body = b"".join(encode(row) + b"\n" for row in found.rows)
    return as_file(body, "application/jsonl", "marks.jsonl")


def as_file(body: bytes, kind: str, name: str) -> Response:
    """An answer that the browser saves under a name, which is of letters, digits, hyphens and dots."""
    return Response(body, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def field(fields: dict[str, str], name: str) -> str:
    """A field that the form must have. Raises ConfigError."""
    if not fields.get(name, "").strip():
        raise ConfigError(f"{name}: is missing or empty; fill it in and send the form again")
    return fields[name]


def judged_row(view: View, stage: str, row_id: str) -> Judgment:
    """A judged row of the run. Raises ConfigError where it has none of this name."""
    found = select(view.index, "judgments", ["stage = ?", "id = ?"], [stage, row_id], "LIMIT 1")
    if not found:
        raise ConfigError(f"row {row_id!r}: not a judged row of {stage}; open it from a table")
    row = read_row(view.index, "judgments", found[0])
    assert isinstance(row, Judgment)
    return row


def check_unchanged(row: Judgment, fields: dict[str, str]) -> None:
    """Raise ConfigError where the texts are not those that the form was about."""
    if fields.get("pair") != pair_digest(row):
        raise ConfigError(
            f"row {row.id!r}: its texts have changed since the page was opened; look at them again"
        )


def author_of(request: Request) -> str:
    """Whose marks a browser makes: the last name given there, else the user who runs the viewer."""
    given = unquote(request.cookies.get(AUTHOR, ""), errors="replace").strip()[:MOST_AUTHOR]
    return given or getpass.getuser()


def remember_author(response: Response, author: str) -> Response:
    """Keep the author's name in the browser."""
    name = quote(author.encode("utf-8", "replace"), safe="")
    response.set_cookie(AUTHOR, name, max_age=YEAR_S, httponly=True, samesite="strict")
    return response


def marks_on(root: Path, stage: str, row: Judgment) -> list[tuple[Mark, bool]]:
    """The marks on a row, each with whether it is on the present texts."""
    digest = pair_digest(row)
    own = [one for one in read_marks(root).rows if (one.stage, one.row) == (stage, row.id)]
    return [(one, one.pair == digest) for one in own]


def principles_in(row: Judgment) -> Sequence[str]:
    """The principles that a row was judged under."""
    return list(dict.fromkeys(verdict.principle for verdict in row.verdicts))


def share(value: float | None) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.1f} %"


environment().filters["share"] = share
environment().globals.update(
    author_of=author_of,
    marks_on=marks_on,
    leaning=leaning,
    pair_digest=pair_digest,
    principles_in=principles_in,
)
