"""A plan as a person reads it in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cai.plan.batches import batch_lines
from cai.plan.rows import Calls, Plan, StagePlan
from cai.report.tables import plain, thousands

DATASET = {
    "unchanged": "dataset  unchanged; nothing is trained again",
    "changed": "dataset  changes without a call; what learns from it is trained again",
    "open": "dataset  depends on replies yet to be made; what learns from it is trained again where it changes",
}


def print_plan(plan: Plan, console: Console) -> None:
    """Rows and calls a stage, then what that means for the dataset."""
    priced = any(stage.cost is not None for stage in plan.stages)
    table = Table(title=f"plan of {plain(plan.run)}", title_justify="left")
    for column in (
        "stage",
        "rows",
        "to ask",
        "held",
        "calls to make",
        "tokens in/out",
        *(("cost $",) if priced else ()),
    ):
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    for stage in plan.stages:
        table.add_row(*_cells(stage, priced))
    table.add_section()
    costs = [stage.cost for stage in plan.stages if stage.calls.high]
    cost = f"{sum(cost or 0.0 for cost in costs):.2f}" if None not in costs else "–"
    tokens = _tokens(
        *(sum(getattr(s, f"{part}_tokens") for s in plan.stages) for part in ("prompt", "completion"))
    )
    table.add_row("all", "", "", f"{plan.held:,}", span(plan.calls), tokens, *((cost,) if priced else ()))
    console.print(table)
    console.print(DATASET[plan.dataset], soft_wrap=True)
    if plan.assumed is not None:
        console.print(plan.assumed, soft_wrap=True, highlight=False)
    for line in plan.over_budget:
        console.print(f"budget   {plain(line)}", soft_wrap=True, highlight=False)
    for line in batch_lines(plan):
        console.print(plain(line), soft_wrap=True, highlight=False)


def span(calls: Calls) -> str:
    """A number of calls, or the expected number with the least and the most."""
    if calls.low == calls.high:
        return f"{calls.low:,}"
    if calls.expected == calls.high:
        return f"{calls.low:,}–{calls.high:,}"
    return f"~{calls.expected:,.0f} ({calls.low:,}–{calls.high:,})"


def _cells(stage: StagePlan, priced: bool) -> list[str]:
    first = stage.kind in (stage.stage, "critique")
    asked = f"{len(stage.asked):,}" + (f" +{stage.unknown:,}?" if stage.unknown else "")
    cells = [
        plain(stage.kind),
        f"{stage.rows:,}" if first else "",
        asked if first else "",
        f"{stage.held:,}" if first else "",
        span(stage.calls),
        _tokens(stage.prompt_tokens, stage.completion_tokens),
    ]
    return cells + ([f"{stage.cost:.2f}" if stage.cost is not None else "–"] if priced else [])


def _tokens(prompt: int, completion: int) -> str:
    return f"{thousands(prompt)}/{thousands(completion)}" if prompt or completion else ""
