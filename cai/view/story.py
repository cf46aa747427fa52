"""The story page: everything that happened to one prompt, from its turns to the rows of the dataset."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cai.errors import ConfigError
from cai.runfolder.previous import stored_constitution
from cai.view.filters import MOST
from cai.view.index_rows import utf8
from cai.view.pages import render
from cai.view.state import ViewDep
from cai.view.story_rows import asked_of, better_of, diff_of, drops_of, steps_of, story_of

router = APIRouter()


@router.get("/story")
def story(request: Request, view: ViewDep, prompt: str = "", row: str = "", of: str = "") -> Response:
    """One prompt, of this run or the `other`; `row`: the one that is marked. Raises ConfigError where there is none."""
    if not prompt:
        raise ConfigError("prompt: which one? open one from a table")
    if len(prompt) > MOST:
        raise ConfigError(f"prompt: longer than {MOST} characters; open one from a table")
    index = view.other if of == "other" else view.index
    if index is None or of not in ("", "other"):
        raise ConfigError(f"of: {of!r} is no run here; open a story from a table or a comparison")
    constitution = view.constitution if index is view.index else stored_constitution(index.run)
    told = story_of(view, index, utf8(prompt))
    judged = {kept.row.id for kept in told.judgments}
    return render(
        request,
        "story.html.j2",
        story=told,
        current=utf8(row),
        other=index is not view.index,
        principles={one.id: one for one in constitution.principles},
        total=told.calls.summed(told.calls.all_keys),
        others=[kept for kept in told.all_pairs if kept.row.lineage not in judged],
        with_calls=lambda keys: [(key, told.calls.get(key)) for key in keys],
        calls_of_judgment=lambda judgment: [key for one in judgment.verdicts for key in one.calls],
        steps_of=steps_of,
        asked_of=lambda judgment: asked_of(judgment, told.calls),
        drops_of=lambda row_id: drops_of(told, row_id),
        better_of=better_of,
        diff_of=diff_of,
        same_id=lambda one, other: utf8(one) == utf8(other),
    )
