"""The summary of a run in the terminal: what `cai status` prints, and a run at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from cai.accounts.budget import spent_line
from cai.accounts.spending import Spent
from cai.models.metrics import engine_lines
from cai.report.coverage_view import print_coverage
from cai.report.edit_view import print_edit
from cai.report.goodhart import print_replies
from cai.report.live import Live
from cai.report.rounds import rounds_table
from cai.report.side_by_side import print_pairs
from cai.report.tables import evaluation_table, judges_table, percent, plain, saving_line, stage_table
from cai.report.watch import print_live
from cai.shard.accounting import accounted_line


def print_status(status: dict[str, Any], console: Console) -> None:
    """The whole summary of a run."""
    console.print(stage_table(status))
    for line in engine_lines(status["engines"]):
        console.print(f"engine   {plain(line)}", soft_wrap=True, highlight=False)
    if status["rounds"]:
        console.print(rounds_table(status["rounds"]))
    _print_labelling(status, console)
    if status["evaluation"]:
        console.print(evaluation_table(status["evaluation"]))
        print_pairs(status["evaluation"], console)
        print_replies(status["evaluation"], console)
    root = f"{status['config']['outputs']}/{status['run']}"
    for name, line in _accounts(status):
        console.print(f"{name:<8} {plain(line)}", soft_wrap=True, highlight=False)
    if status["dataset"]:
        parts = ", ".join(f"{part} {rows:,} rows" for part, rows in status["dataset"].items())
        console.print(f"dataset  {plain(root)}/dataset  ({parts})", soft_wrap=True)
    for kind in status["training"]:
        console.print(f"{kind:<8} {plain(root)}/models/{kind}", soft_wrap=True)
    if status["report"]:
        console.print(f"report   {plain(status['report'])}", soft_wrap=True)
    if status["state"] == "running":
        print_live(Live.model_validate(status["live"]) if status["live"] else None, console)
    elif status["state"] != "finished":
        console.print(
            f"state    {plain(status['state'])}; run the same command again to resume", soft_wrap=True
        )


def _accounts(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a target was reached, what the run accounts for, and what it has spent of its budget."""
    if reached := status["target"]:
        beyond = reached["pairs"] - reached["target"]
        drawn = f"drawn {reached['drawn']:,} of {reached['prompts']:,} prompts"
        left_out = f"{beyond:,} accepted pairs beyond the target left out"
        yield "target", f"{reached['target']:,} pairs reached: {drawn}; {left_out}"
    if status["accounting"]:
        yield "accounts", accounted_line(status["accounting"])
    if (budget := status["config"].get("budget")) and status["spent"]:
        yield "budget", spent_line(Spent(**status["spent"]), budget)


def _print_labelling(status: dict[str, Any], console: Console) -> None:
    """Who judged, and what the constitution and its last edit came to."""

    for stage, judges in status["judges"].items():
        console.print(judges_table(stage, judges))
        if judges["saving"]:
            console.print(plain(saving_line(judges)), soft_wrap=True)
    if found := status["qualification"]:
        decision = "qualified" if found["qualified"] else "refused"
        low, high = found["accuracy_interval"] or (None, None)
        right = plain(percent({"rate": found["accuracy"], "low": low, "high": high}))
        pairs = f"{found['scored']:,} labelled pairs"
        console.print(f"judge    {decision}: {right} % right on {pairs}", soft_wrap=True, highlight=False)
    if steps := status["stepwise"]:
        counts = ", ".join(f"{count:,} {plain(state)}" for state, count in steps["states"].items())
        more = f"; {steps['behind_end']:,} of them behind the end of their row" if steps["behind_end"] else ""
        console.print(f"steps    {counts}{more}", soft_wrap=True, highlight=False)
    if status["coverage"]:
        print_coverage(status["coverage"], console)
    if status["edit"]:
        print_edit(status["edit"], console)
