"""The tables that a person reads in the terminal. Text of models goes through `plain` first."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from cai.config.training import evaluated
from cai.printable import printable_lines

METRICS = {"harmless": "harmless ↑", "helpful": "helpful ↑", "overrefusal": "over-refusal ↓"}


def plain(text: str) -> str:
    """Text that cannot steer a terminal: control, ANSI and bidi characters replaced, rich markup escaped."""
    return escape(printable_lines(text))


def percent(rate: dict[str, Any] | None) -> str:
    """A rate with its 95 % interval, in per cent."""
    if not rate or rate["rate"] is None:
        return "–"
    return f"{100 * rate['rate']:.1f} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def thousands(count: int) -> str:
    """A token count short enough for a narrow terminal."""
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k" if count >= 1e4 else str(count)


def stage_table(status: dict[str, Any]) -> Table:
    """Rows, drops, calls with the attempts that failed, tokens and (where a price is known) cost a stage."""
    stages = status["stages"]
    priced = any(stage["calls"] and stage["cost"] is not None for stage in stages.values())
    table = Table(title=f"run {plain(status['run'])}", title_justify="left")
    for column in (
        "stage",
        "in",
        "out",
        "dropped",
        "calls",
        "tokens in/out",
        *(("cost $",) if priced else ()),
    ):
        left = column in ("stage", "dropped")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "dropped")
    for name, stage in stages.items():
        cells = [name, f"{stage['rows_in']:,}", f"{stage['rows_out']:,}"]
        cells.append(plain("\n".join(f"{reason} {count:,}" for reason, count in stage["drops"].items())))
        if stage["calls"]:
            tokens = f"{thousands(stage['prompt_tokens'])}/{thousands(stage['completion_tokens'])}"
            failed = sum(stage.get("failed_attempts", {}).values())
            cells += [f"{stage['calls']:,}" + (f" +{failed:,} failed" if failed else ""), tokens]
            cells += [cost_cell(stage["cost"])] if priced else []
        table.add_row(*cells)
    total = status["total"]
    tokens = f"{thousands(total['prompt_tokens'])}/{thousands(total['completion_tokens'])}"
    spent = [cost_cell(total["cost"])] if priced else []
    table.add_section()
    table.add_row("in all", "", "", "", f"{total['calls']:,}", tokens, *spent)
    if defused := sum(stage.get("defused", 0) for stage in stages.values()):
        table.caption = f"{defused:,} turn tokens stood in prompts and were broken up on their way to a model"
    return table


def cost_cell(cost: float | None) -> str:
    """US dollars, or the word for a sum in which some price is not known."""
    return "unknown" if cost is None else f"{cost:.2f}"


def judges_table(stage: str, judges: dict[str, Any]) -> Table:
    """What each judge of a jury or a cascade was asked and labelled, its calls, tokens and (where priced) cost."""
    table = Table(title=f"{judges['kind']} of {stage}", title_justify="left")
    priced = any(use["cost"] is not None for use in judges["judges"] if use["calls"])
    for column in ("judge", "asked", "labelled", "calls", "tokens in/out", *(("cost $",) if priced else ())):
        table.add_column(column, justify="left" if column == "judge" else "right", no_wrap=column != "judge")
    for use in judges["judges"]:
        tokens = f"{thousands(use['prompt_tokens'])}/{thousands(use['completion_tokens'])}"
        cells = [f"{use['asked']:,}", f"{use['labelled']:,}", f"{use['calls']:,}", tokens]
        cells += [cost_cell(use["cost"])] if priced else []
        table.add_row(plain(use["judge"]), *cells)
    return table


def saving_line(judges: dict[str, Any]) -> str:
    """What a cascade saved against its last judge alone, in words."""
    saving, last = judges["saving"], judges["judges"][-1]["judge"]
    if saving["escalated_share"] is None:
        return "nothing to compare"
    line = f"{saving['escalated']:,} of {judges['compared']:,} went on ({saving['escalated_share']:.0%})"
    line += f"; {saving['saved_share']:.0%} of {last}'s calls saved"
    if saving["saved_calls"] is not None:
        line += f": {saving['saved_calls']:,} of {saving['all_calls']:,}"
    if saving["saved_cost"] is not None and saving["all_cost"]:
        line += f"; ${judges['cost']:.2f} in all instead of ${saving['all_cost']:.2f}"
    return line


def evaluation_table(evaluation: dict[str, Any]) -> Table:
    """Harmless, helpful and over-refusal of each model on the held-out prompts, in per cent with 95 % intervals."""
    table = Table(title="held-out prompts, % [95 % interval]", title_justify="left")
    table.add_column("model", no_wrap=True)
    for title in METRICS.values():
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for name in evaluated(evaluation):
        rates = [evaluation[name].get(metric) for metric in METRICS]
        counts = "/".join(str(rate["n"] if rate else 0) for rate in rates)
        table.add_row(name, *(percent(rate) for rate in rates), counts)
    return table
