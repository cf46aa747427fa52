"""What each judge of a jury or a cascade was asked and cost, and what a cascade saved by asking the cheap one first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cai.rows import Row


class JudgeUse(Row):
    """One judge. `asked`: comparisons that it had to judge. `labelled`: those on which its own answer is a label.

    Calls, tokens and `cost` (US dollars, None where a price is unknown) cover every call behind its rows.
    """

    judge: str
    asked: int
    labelled: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


class Saving(Row):
    """What a cascade saved against asking its last judge about every comparison.

    `escalated`: comparisons that went beyond the first judge, `escalated_share` of all. `all_calls`, `all_cost`:
    what the last judge would have taken for all, at its measured mean a comparison; None where it was never asked,
    or has no known price. `saved_calls` and `saved_share`: calls to the last judge that were not made.
    `saved_cost`: `all_cost` less what all judges together did cost, so negative where the cascade does not pay.
    """

    escalated: int
    escalated_share: float | None
    all_calls: int | None
    all_cost: float | None
    saved_calls: int | None
    saved_share: float | None
    saved_cost: float | None


class Judges(Row):
    """Several judges of one stage, over the shards that are done. `compared`: comparisons that need a judgment.

    `labelled`: those that the judges together labelled. `saving`: of a cascade; None for a jury.
    """

    kind: Literal["jury", "cascade"]
    compared: int
    labelled: int
    calls: int
    cost: float | None
    judges: tuple[JudgeUse, ...]
    saving: Saving | None


def judges_of(kind: Literal["jury", "cascade"], uses: Sequence[JudgeUse], labelled: int) -> Judges:
    """The figures of several judges, in the order of the config; `labelled`: by all of them together."""
    costs = [use.cost for use in uses]
    cost = None if None in costs else sum(cost for cost in costs if cost is not None)
    return Judges(
        kind=kind,
        compared=uses[0].asked,
        labelled=labelled,
        calls=sum(use.calls for use in uses),
        cost=cost,
        judges=tuple(uses),
        saving=_saving(uses, cost) if kind == "cascade" else None,
    )


def _saving(uses: Sequence[JudgeUse], cost: float | None) -> Saving:
    compared, last = uses[0].asked, uses[-1]
    all_calls = round(last.calls / last.asked * compared) if last.asked else None
    all_cost = last.cost / last.asked * compared if last.asked and last.cost is not None else None
    return Saving(
        escalated=uses[1].asked,
        escalated_share=uses[1].asked / compared if compared else None,
        all_calls=all_calls,
        all_cost=all_cost,
        saved_calls=None if all_calls is None else all_calls - last.calls,
        saved_share=1 - last.asked / compared if compared else None,
        saved_cost=None if all_cost is None or cost is None else all_cost - cost,
    )
