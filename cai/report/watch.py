"""A run that is going, seen from another terminal: one look, or until it ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from cai.report.live import Live, read_live, running
from cai.report.progress import LOG_INTERVAL_S, clock, counted, told_stage, told_training
from cai.report.tables import cost_cell, plain

LOOK_S = 1.0
BETWEEN = "running  between two steps, or an engine is starting; `--watch` goes on looking"


def print_live(live: Live | None, console: Console) -> None:
    """What a run that is going is at."""
    if live is None:
        console.print(BETWEEN, soft_wrap=True, highlight=False)
        return
    console.print(f"running  pid {live.pid} on {plain(live.host)}", soft_wrap=True, highlight=False)
    console.print(live_table(live) if live.stages else Text.from_markup("\n".join(lines(live))))


def live_table(live: Live) -> Table:
    """Each stage that is being worked on: rows, speed, calls in flight, drops by reason, time to go, and cost."""
    table = Table(title="at work", title_justify="left", caption=plain(live.budget) or None)
    priced = any(now.calls_made + now.calls_replayed and now.cost is not None for now in live.stages.values())
    columns = ("stage", "rows", "rows/s", "tokens/s", "in flight", "dropped", "left")
    for column in (*columns, *(("cost $",) if priced else ())):
        left = column in ("stage", "dropped")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "dropped")
    for name, now in live.stages.items():
        table.add_row(
            plain(name),
            counted(now).removesuffix(" rows").replace("at most ", "≤ "),
            f"{now.rows_per_s:,.1f}",
            f"{now.tokens_per_s:,.0f}",
            str(now.in_flight),
            plain("\n".join(f"{reason} {count:,}" for reason, count in now.drops.items())),
            "" if now.eta_s is None else clock(now.eta_s),
            *((cost_cell(now.cost),) if priced else ()),
        )
    return table


def lines(live: Live) -> list[str]:
    """The same as one line for each stage and training, ready to print."""
    stages = [f"{name}: {counted(now)}, {told_stage(now)}" for name, now in live.stages.items()]
    trainings = [
        f"{name}: step {now.step} of {now.total}, {told_training(now)}"
        for name, now in live.trainings.items()
    ]
    budget = [f"budget: {live.budget}"] if live.budget else []
    return [plain(line) for line in (*stages, *trainings, *budget)]


def watch(root: Path, console: Console, pause: Callable[[float], None] = time.sleep) -> None:
    """Show what a run is at until no process works on it any more.

    On a terminal one picture that changes; else lines, every LOG_INTERVAL_S seconds. Ctrl-C stops looking, not the
    run; where nothing runs, this returns at once.
    """
    with contextlib.suppress(KeyboardInterrupt):
        _watch(root, console, pause)


def _watch(root: Path, console: Console, pause: Callable[[float], None]) -> None:
    if not console.is_terminal:
        while running(root):
            live = read_live(root)
            for line in lines(live) if live else ():
                console.print(line, soft_wrap=True, highlight=False)
            _wait(root, LOG_INTERVAL_S, pause)
        return
    with Screen(console=console, transient=True, auto_refresh=False) as screen:
        while running(root):
            live = read_live(root)
            shown = live_table(live) if live and live.stages else Text.from_markup(_brief(live))
            screen.update(shown, refresh=True)
            pause(LOOK_S)


def _brief(live: Live | None) -> str:
    return BETWEEN if live is None else "\n".join(lines(live)) or plain(live.said)


def _wait(root: Path, seconds: float, pause: Callable[[float], None]) -> None:
    """Wait, but no longer than the run lasts."""
    waited = 0.0
    while waited < seconds and running(root):
        pause(LOOK_S)
        waited += LOOK_S
