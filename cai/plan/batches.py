"""What batch APIs mean for a plan: how much they take off its cost, and how many batches follow one another."""

from __future__ import annotations

import math

from cai.config import ModelConfig, RunConfig
from cai.config.models import BATCHED
from cai.judges.stages import weighs_pairs
from cai.models.base import Usage
from cai.models.cost import batch_discount, cost
from cai.plan.rows import Calls, Plan, StagePlan

LEAST = 0.005  # US dollars that are worth a line


def cost_and_saving(model: ModelConfig, usage: Usage) -> tuple[float | None, float | None]:
    """US dollars for `usage` in the model's mode, and what mode batch takes off the live price; None: not known.

    The saving is None as well where there is no batch API.
    """
    live, discount = cost(usage, model.model, model.price), batch_discount(model.backend)
    if live is None:
        return None, None
    saving = live * discount if discount else None
    return (live - saving if saving and model.mode == "batch" else live), saving


def batches_in_a_row(config: RunConfig, model: ModelConfig, stage: str, kind: str, calls: Calls) -> int:
    """How many batches wait for one another: as many as a row's calls do, more where not all rows fit into one."""
    limit = model.max_concurrency if model.mode == "batch" else BATCHED
    chain = config.critic.rounds if kind in ("critique", "revision") else 1
    chain = 2 if weighs_pairs(stage) and config.judge.reasoning else chain
    return max(chain, math.ceil(calls.expected / limit))


def batch_lines(plan: Plan) -> list[str]:
    """What a reader of the plan should know about mode batch: of models that are in it, and of those that could be."""
    asking = [stage for stage in plan.stages if stage.calls.high]
    lines = []
    if batched := [stage for stage in asking if stage.mode == "batch"]:
        savings = [stage.batch_saving for stage in batched]
        less = "" if None in savings else f"${sum(saving or 0.0 for saving in savings):.2f} less than live, "
        lines.append(f"batches  {less}{_wait(batched)}")
    live = [stage for stage in asking if stage.mode == "live" and (stage.batch_saving or 0.0) > 0]
    saved = sum(stage.batch_saving or 0.0 for stage in live)
    if saved >= LEAST:
        names = ", ".join(f"models.{name}" for name in dict.fromkeys(stage.model for stage in live))
        lines.append(f"batches  mode: batch would cost ${saved:.2f} less ({names}), {_wait(live)}")
    return lines


def _wait(stages: list[StagePlan]) -> str:
    count = sum(stage.batches for stage in stages)
    return f"in about {count} batches one after the other, each within a day" if count > 1 else "within a day"
