"""Progress of stages that run side by side: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cai.run import Progress as ShardProgress

LOG_INTERVAL_S = 15.0


def dollars(costs: Iterable[float | None]) -> str:
    """What several parts cost together, for people; a part without a known price makes the sum unknown, not less."""
    found = list(costs)
    known = [cost for cost in found if cost is not None]
    return f"${sum(known):.2f}" if len(known) == len(found) else "cost unknown"


class Board:
    """One bar a stage, summed over its shards, with rows, rate, ETA, tokens and cost; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<14}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[spent]}"), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._shards: dict[str, dict[int, ShardProgress]] = {}
        self._totals: dict[str, int | None] = {}
        self._started: dict[str, float] = {}
        self._logged = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """One line above the bars."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(self, name: str, total: int | None) -> Callable[[int, ShardProgress], None]:
        """Add a bar for a stage over `total` rows (None: unknown); returns what to call as (shard, progress)."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, rate="", spent="")
            self._shards[name], self._totals[name] = {}, total
            self._started[name] = time.monotonic()

        def update(shard: int, progress: ShardProgress) -> None:
            self._shards[name][shard] = progress
            if self._console.is_terminal or self._due():
                self._draw(name)

        return update

    def training(self, kind: str) -> Callable[[dict[str, Any]], None]:
        """Add a bar for a training; returns what takes its metrics, a record a logged step."""
        task = self._bars.add_task(kind, total=None, rate="", spent="")

        def update(record: dict[str, Any]) -> None:
            loss = f"loss {record['loss']:.3f}" if "loss" in record else ""
            speed = f"{record['tokens_per_s']:,.0f} tokens/s" if record.get("tokens_per_s") else ""
            if record.get("mfu"):
                speed += f", MFU {record['mfu']:.0%}"
            self._bars.update(task, completed=record["step"], total=record["total"], rate=speed, spent=loss)
            if not self._console.is_terminal and self._due():
                self.say(f"{kind}: step {record['step']} of {record['total']}, {loss}, {speed}")

        return update

    def _draw(self, name: str) -> None:
        shards = self._shards[name].values()
        done = sum(shard.rows_done for shard in shards)
        tokens = sum(shard.prompt_tokens + shard.completion_tokens for shard in shards)
        rate = done / max(time.monotonic() - self._started[name], 1e-3)
        spent = f"{tokens / 1000:,.0f}k tokens" + (
            f", {dollars(shard.cost for shard in shards)}" if tokens else ""
        )
        self._bars.update(self._tasks[name], completed=done, rate=f"{rate:.1f} rows/s", spent=spent)
        if not self._console.is_terminal:
            total = self._totals[name]
            self.say(f"{name}: {done:,}{f' of {total:,}' if total else ''} rows, {rate:.1f} rows/s, {spent}")

    def _due(self) -> bool:
        """True every LOG_INTERVAL_S seconds."""
        due = time.monotonic() - self._logged > LOG_INTERVAL_S
        if due:
            self._logged = time.monotonic()
        return due
