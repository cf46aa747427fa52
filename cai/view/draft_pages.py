"""A principle edited in the browser: a draft beside the run, checked as any constitution is, and its difference."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cai.constitution.lint import lint
from cai.errors import ConfigError, ConstitutionError
from cai.view.draft import (
    Draft,
    difference,
    draft_names,
    open_draft,
    principle_of,
    principle_text,
    read_draft,
    reworded,
    rewritten,
    save_draft,
)
from cai.view.draft_text import WORDINGS
from cai.view.marks_pages import Form, as_file, field
from cai.view.pages import go, link, one_line, render
from cai.view.state import View, ViewDep
from cai.view.try_pages import trials_of

router = APIRouter()
HINTS = {
    "statement": "what a good reply does or does not do, in one sentence",
    "critique": "own wording for critiques; empty: the statement",
    "revision": "own wording for revisions; empty: the statement",
    "judge": "own wording for judging; empty: the statement",
}


@router.get("/draft")
def draft(request: Request, view: ViewDep, principle: str = "", prompt: str = "", name: str = "") -> Response:
    """The form of a principle, as the draft `name` has it; `prompt`: of the run, to try it on."""
    if not principle:
        raise ConfigError("principle: which one? open one from the story of a row")
    opened = _open(view, name or principle)
    return _form(request, view, opened, principle, prompt)


@router.post("/draft")
def edit(request: Request, view: ViewDep, fields: Form) -> Response:
    """Keep the form as a draft, and try it where that was asked for; what is wrong is told on the same page."""
    principle, prompt = field(fields, "principle"), fields.get("prompt", "")
    opened = _open(view, field(fields, "name"))
    principle_of(opened, principle)
    try:
        if fields.get("mode") == "yaml":
            text = rewritten(opened, principle, fields.get("entry", ""))
        else:
            text = reworded(opened, principle, fields)
    except ConstitutionError as error:
        return _form(request, view, opened, principle, prompt, given=fields, problem=one_line(str(error)))
    save_draft(opened, text)
    if fields.get("do") == "try":
        if not prompt:
            raise ConfigError("prompt: none to try it on; open the draft from the story of a row")
        trials_of(request).start(view.root, view.config, path=opened.path, principle=principle, prompt=prompt)
        return go("/try")
    return go(link("/draft", principle=principle, prompt=prompt, name=opened.name))


@router.get("/draft/{name}.yaml")
def download(view: ViewDep, name: str) -> Response:
    """A draft's file, as it can take the place of the original."""
    opened = _open(view, name)
    if not opened.saved:
        raise ConfigError(f"draft {name!r}: not kept yet; edit a principle first")
    return as_file(read_draft(opened), "application/yaml", f"{opened.name}.yaml")


def _open(view: View, name: str) -> Draft:
    return open_draft(view.root, view.config.constitution, view.constitution, name)


def _form(
    request: Request,
    view: View,
    opened: Draft,
    principle: str,
    prompt: str,
    given: Mapping[str, str] | None = None,
    problem: str = "",
) -> Response:
    """The page of a draft. `given`: what was typed, where it could not be kept because of `problem`."""
    found = principle_of(opened, principle)
    now = {name: getattr(found, name) or "" for name in WORDINGS}
    entry = principle_text(opened, principle)
    typed = given or {}
    return render(
        request,
        "draft.html.j2",
        status=400 if problem else 200,
        draft=opened,
        principle=found,
        prompt=prompt,
        hints=HINTS,
        values={name: typed.get(name, text) for name, text in now.items()},
        entry=typed.get("entry", entry),
        names=draft_names(view.root),
        problem=problem,
        findings=lint(opened.path) if opened.saved else [],
        lines=difference(opened) if opened.saved else [],
        own_file=str(opened.origin) == view.config.constitution,
        running=trials_of(request).running,
    )
