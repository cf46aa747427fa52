"""Which flows can be deployed, and what there is to say about one deployment."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

FLOWS = ("generate", "revise", "judge", "train", "evaluate", "qualify", "pipeline", "nightly")


class Wanted(NamedTuple):
    """One deployment to be made. `parameters`: of the flow, as JSON; at most one of `cron` and `interval_s`."""

    flow: str
    name: str
    parameters: dict[str, Any]
    cron: str | None
    interval_s: int | None
    timezone: str


def flow_of(name: str) -> Any:
    """The Prefect flow of that name; imports Prefect."""
    return getattr(importlib.import_module(f"flows.{name}"), name)
