"""How many calls a row takes whose reply is not in the journal: exactly, or from least to most.

A judge without reasoning, a policy and a first critique ask what they ask whatever comes back. What follows a
critique depends on what it says, so it is a range. To be expected is what follows where a reply that is asked again
says what it said before; where there is none before, the run's own shares tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cai.config import RunConfig
from cai.judges.stages import weighs_pairs
from cai.models.base import Request, derive_seed
from cai.plan.rates import Rates
from cai.plan.rows import Calls
from cai.shard.calls import ATTEMPTS, retry_seed
from cai.stepwise import STEPS

ByKind = dict[str, Calls]


def kinds_of(stage: str) -> tuple[str, ...]:
    """The kinds of calls that a stage makes."""
    return ("critique", "revision") if stage == "revise" else (stage,)


def calls_of_row(
    config: RunConfig, stage: str, row: Any, missing: Sequence[Request], rates: Rates, *, tentative: bool
) -> ByKind:
    """The calls of a row of which the journal lacks `missing`, the first that its step came to.

    `tentative`: the row itself stands on replies that will be asked again, and is what it was before.
    """
    if stage == "revise":
        kind, round_ = place(config, row.id, missing[0])
        return _chain(config, kind, config.critic.rounds - round_ - 1, rates)
    thoughts = sum(not request.choices for request in missing) if _reasons(config, stage) else 0
    if tentative:
        expected = len(missing) + thoughts
        return {stage: Calls(low=0, expected=expected, high=calls_a_comparison(config))}
    return {stage: Calls.exactly(len(missing)) + Calls(low=0, expected=thoughts, high=thoughts)}


def calls_as_before(config: RunConfig, row_id: str, missing: Sequence[Request], calls: ByKind) -> ByKind:
    """The calls of a chain where all that is asked again says what it said before, within `calls`."""
    kinds = [place(config, row_id, request)[0] for request in missing]
    return {
        kind: each.model_copy(update={"expected": float(kinds.count(kind))}) for kind, each in calls.items()
    }


def calls_of_unknown(config: RunConfig, stage: str, count: float, most: int, rates: Rates) -> ByKind:
    """The calls of rows that may come: `most` at most, `count` expected."""
    if stage == "revise":
        rounds = config.critic.rounds
        expected = rates.rounds if rates.rounds is not None else float(rounds)
        return {
            "critique": Calls(expected=count * expected, high=most * rounds),
            "revision": Calls(expected=count * expected * rates.violated, high=most * rounds),
        }
    if stage == STEPS:
        assert config.stepwise is not None
        each, steps = calls_a_step(config), rates.steps or float(config.stepwise.max_steps)
        return {stage: Calls(expected=count * each * steps, high=most * each * config.stepwise.max_steps)}
    each = calls_a_comparison(config) if weighs_pairs(stage) else 1
    return {stage: Calls(expected=count * each, high=most * each)}


def calls_a_comparison(config: RunConfig) -> int:
    """The most calls that one judge takes for one pair."""
    judge = config.judge
    samples = judge.samples if judge.method == "samples" else 1
    return judge.principles * 2 * samples * (2 if judge.reasoning else 1)


def calls_a_step(config: RunConfig) -> int:
    """The most calls that one step of a reply takes: it is judged without reasoning."""
    assert config.stepwise is not None
    judge = config.judge
    return config.stepwise.principles * 2 * (judge.samples if judge.method == "samples" else 1)


def _reasons(config: RunConfig, stage: str) -> bool:
    return config.judge.reasoning and weighs_pairs(stage)


def _chain(config: RunConfig, kind: str, later: int, rates: Rates) -> ByKind:
    """The rest of a chain of critiques and revisions, from a first call on that is certain.

    `later`: rounds after this one. They are only asked again where this one leaves another text.
    """
    violated = rates.violated
    if kind == "critique":
        return {
            "critique": Calls(low=1, expected=1 + violated * later, high=1 + later),
            "revision": Calls(low=0, expected=violated * (1 + violated * later), high=1 + later),
        }
    return {
        "critique": Calls(low=0, expected=later, high=later),
        "revision": Calls(low=1, expected=1 + violated * later, high=1 + later),
    }


def place(config: RunConfig, row_id: str, request: Request) -> tuple[str, int]:
    """Which call of a chain this is: its kind, and its round from 0. Its seed tells."""
    for round_ in range(config.critic.rounds):
        for kind, name in (("critique", "critique"), ("revision", "revise")):
            first = derive_seed(config.seed, row_id, name, round_)
            if request.seed in (first, *(retry_seed(first, attempt) for attempt in range(1, ATTEMPTS))):
                return kind, round_
    raise AssertionError(f"{row_id}: a call of the stage revise with a seed of no round")
