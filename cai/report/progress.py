"""Progress of stages that run side by side: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from cai.report.live import Live, Meter, StageNow, TrainingNow, remove_live, write_live
from cai.report.tables import plain, thousands
from cai.shard.progress import Progress as ShardProgress

LOG_INTERVAL_S = 15.0
FILE_INTERVAL_S = 1.0


def dollars(costs: Iterable[float | None]) -> str:
    """What several parts cost together, for people; a part without a known price makes the sum unknown, not less."""
    found = list(costs)
    known = [cost for cost in found if cost is not None]
    return f"${sum(known):.2f}" if len(known) == len(found) else "cost unknown"


def counted(now: StageNow) -> str:
    """How many rows of how many are done."""
    if now.rows_total is None:
        return f"{now.rows_done:,} rows"
    return f"{now.rows_done:,} of {'at most ' if now.at_most else ''}{now.rows_total:,} rows"


def clock(seconds: float) -> str:
    """A time to go, as minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}:{rest:02}"


def told_stage(now: StageNow) -> str:
    """Speed, time to go, calls in flight, drops, tokens and cost of a stage, in one line."""
    dropped = sum(now.drops.values())
    tokens = now.prompt_tokens + now.completion_tokens
    parts = [f"{now.rows_per_s:,.1f} rows/s"]
    parts += [f"{now.tokens_per_s:,.0f} tokens/s"] if now.tokens_per_s else []
    parts += [f"{clock(now.eta_s)} left"] if now.eta_s else []
    parts += [f"{now.in_flight} in flight"] if now.in_flight else []
    parts += [f"{dropped:,} dropped"] if dropped else []
    parts += [f"{thousands(tokens)} tokens", dollars([now.cost])] if tokens else []
    return ", ".join(parts)


def told_training(now: TrainingNow) -> str:
    """Loss and speed of a training."""
    parts = [f"loss {now.loss:.3f}"] if now.loss is not None else []
    parts += [f"{now.tokens_per_s:,.0f} tokens/s"] if now.tokens_per_s else []
    return ", ".join(parts)


class Board:
    """One bar a stage, summed over its shards; a context manager. What it shows is kept in the run's folder too.

    `left`: the stages as they were when the board was left the last time.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<10}"), BarColumn(bar_width=12), TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[told]}", table_column=Column(ratio=1)),
            console=console, disable=not console.is_terminal, expand=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._meters: dict[str, Meter] = {}
        self._trainings: dict[str, TrainingNow] = {}
        self._drawn: dict[str, tuple[int, int, int]] = {}
        self._said = ""
        self._root: Path | None = None
        self._budget: Callable[[], str] | None = None
        self._logged = time.monotonic()
        self._written = 0.0
        self._entered = 0
        self.left: dict[str, StageNow] = {}

    def __enter__(self) -> Self:
        self._entered += 1
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._entered:
            return
        self.left = {name: meter.now() for name, meter in self._meters.items()}
        for name in self._meters:  # a log ends with where each stage got to; bars stay on the screen
            self._draw(name)
        self._bars.stop()
        if self._root is not None:
            remove_live(self._root)
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks, self._meters, self._trainings, self._drawn, self._root = {}, {}, {}, {}, None

    def say(self, text: str) -> None:
        """One line above the bars."""
        self._said = text
        self._console.print(plain(text), highlight=False, soft_wrap=True)

    def stage(
        self,
        name: str,
        total: int | None,
        *,
        at_most: bool = False,
        limit: int | None = None,
        root: Path | None = None,
        budget: Callable[[], str] | None = None,
    ) -> Callable[[int, ShardProgress], None]:
        """Add a bar for a stage over `total` rows (None: unknown); returns what to call as (shard, progress).

        `at_most`: the total is a bound. `limit`: most calls at once over all shards. `root`: the run's folder, where
        others can read how far it is. `budget`: tells what is spent of the run's.
        """
        self._root, self._budget = root or self._root, budget
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(plain(name), total=total, count="", told="")
            self._meters[name] = Meter(total, at_most, limit)

        def update(shard: int, progress: ShardProgress) -> None:
            if name in self._meters:  # the board may have been left, by an error beside
                self._meters[name].update(shard, progress)
                self._write()
                if self._console.is_terminal:
                    self._draw(name)
                elif self._due():
                    for each in self._meters:
                        self._draw(each)

        return update

    def training(self, kind: str, root: Path | None = None) -> Callable[[dict[str, Any]], None]:
        """Add a bar for a training; returns what takes its metrics, a record a logged step."""
        self._root = root or self._root
        task = self._tasks[kind] = self._bars.add_task(plain(kind), total=None, count="", told="")

        def update(record: dict[str, Any]) -> None:
            now = TrainingNow(
                step=record["step"],
                total=record["total"],
                loss=record.get("loss"),
                tokens_per_s=record.get("tokens_per_s"),
            )
            self._trainings[kind] = now
            self._write()
            if task not in self._bars.task_ids:  # a last record, after the board was left
                return
            told = told_training(now) + (f", MFU {record['mfu']:.0%}" if record.get("mfu") else "")
            count = f"step {now.step} of {now.total}"
            self._bars.update(task, completed=now.step, total=now.total, count=count, told=told)
            if not self._console.is_terminal and self._due():
                self._line(f"{kind}: {count}, {told}")

        return update

    def _draw(self, name: str) -> None:
        """Show a stage; in a log only where it has moved."""
        now = self._meters[name].now()
        told = ", ".join([told_stage(now), *([self._budget()] if self._budget else [])])
        if self._console.is_terminal:
            self._bars.update(self._tasks[name], completed=now.rows_done, count=counted(now), told=told)
        elif self._drawn.get(name) != (moved := (now.rows_done, now.calls_made, now.calls_replayed)):
            self._drawn[name] = moved
            self._line(f"{name}: {counted(now)}, {told}")

    def _line(self, text: str) -> None:
        self._console.print(plain(text), highlight=False, soft_wrap=True)

    def _write(self) -> None:
        """The run's file, at most once in FILE_INTERVAL_S; only of the process that leads the run."""
        if self._root is None or not self._entered or time.monotonic() - self._written < FILE_INTERVAL_S:
            return
        self._written = time.monotonic()
        stages = {name: meter.now() for name, meter in self._meters.items()}
        live = Live(
            pid=os.getpid(), host=socket.gethostname(), at=time.time(), said=self._said,
            stages=stages, trainings=self._trainings, budget=self._budget() if self._budget else "",
        )  # fmt: skip
        write_live(self._root, live)

    def _due(self) -> bool:
        """True every LOG_INTERVAL_S seconds."""
        due = time.monotonic() - self._logged > LOG_INTERVAL_S
        if due:
            self._logged = time.monotonic()
        return due
