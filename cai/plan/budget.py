"""Where a plan goes beyond the run's budget."""

from __future__ import annotations

from collections.abc import Iterator

from cai.accounts.spending import Spent, read_spent
from cai.config import RunConfig
from cai.plan.rows import Plan


def over_budget(config: RunConfig, plan: Plan) -> Iterator[str]:
    """A line for each cap that the expected calls would exceed, on top of what the run has spent. Raises StoreError."""
    budget = config.budget
    if budget is None:
        return
    spent = read_spent(config.root) or Spent()
    calls = spent.calls + round(plan.calls.expected)
    if budget.max_calls is not None and calls > budget.max_calls:
        yield _line("max_calls", f"{calls:,} calls", f"{budget.max_calls:,}", f"{spent.calls:,}")
    tokens = spent.tokens + sum(stage.prompt_tokens + stage.completion_tokens for stage in plan.stages)
    if budget.max_tokens is not None and tokens > budget.max_tokens:
        yield _line("max_tokens", f"{tokens:,} tokens", f"{budget.max_tokens:,}", f"{spent.tokens:,}")
    dollars = spent.cost + sum(stage.cost or 0.0 for stage in plan.stages)
    if budget.max_cost is not None and dollars > budget.max_cost:
        yield _line("max_cost", f"${dollars:.2f}", f"${budget.max_cost:.2f}", f"${spent.cost:.2f}")


def _line(cap: str, wanted: str, most: str, spent: str) -> str:
    return (
        f"{cap}: {wanted} in all, {spent} of it spent already, are more than {most}: the run would stop there"
    )
