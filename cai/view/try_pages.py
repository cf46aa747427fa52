"""The page of the trial that is going on, or of the last one: how far it is, and what the draft changed."""

from __future__ import annotations

import time
from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cai.tryout.trial import Chain, Tried
from cai.view.pages import go, render
from cai.view.state import ViewDep
from cai.view.story_rows import diff_of
from cai.view.try_trial import Trials

router = APIRouter()


@router.get("/try")
def show(request: Request, view: ViewDep) -> Response:
    """The last trial."""
    trial = trials_of(request).last
    tried = trial.result.prompts[0] if trial and trial.result else None
    seconds = 0.0
    if trial:
        seconds = time.monotonic() - trial.begun if trial.state == "running" else trial.seconds
    return render(
        request,
        "tried.html.j2",
        trial=trial,
        tried=tried,
        seconds=seconds,
        versions=versions_of(tried) if tried else [],
        begins=begins,
        diff_of=diff_of,
    )


@router.post("/try/stop")
def stop(request: Request) -> Response:
    """End the trial that is going on."""
    trials_of(request).cancel()
    return go("/try")


def trials_of(request: Request) -> Trials:
    """The trials of a viewer."""
    return cast(Trials, request.app.state.trials)


def versions_of(tried: Tried) -> list[tuple[str, Chain]]:
    """What became of the reply before and after the edit, where there is such a version."""
    both = (("before", tried.previous), ("after", tried.new))
    return [(name, chain) for name, chain in both if chain is not None]


def begins(chain: Chain, number: int, reply: str) -> str:
    """The text that a round began with."""
    earlier = (done.revision for done in reversed(chain.rounds[:number]) if done.revision is not None)
    return next(earlier, reply)
