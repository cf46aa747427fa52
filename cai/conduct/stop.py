"""How a run is stopped from outside, and what it says then: Ctrl-C, SIGTERM and a closed terminal do the same."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

from rich.console import Console

from cai.config import RunConfig
from cai.errors import CaiError
from cai.report.live import StageNow
from cai.report.progress import counted, dollars
from cai.report.status import run_status
from cai.report.tables import plain, stage_table, thousands

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 5.0


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """In the block SIGTERM and SIGHUP are what Ctrl-C is. Who started us with one ignored (nohup) has it ignored."""
    terminal = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _forget(terminal)
        if Interrupt.current is not None:
            Interrupt.current(number, frame)
        elif callable(on_ctrl_c := signal.getsignal(signal.SIGINT)):
            on_ctrl_c(signal.SIGINT, frame)
        else:  # ignored, as a shell does it for what runs in the background
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in heard:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in heard:
            if signal.getsignal(number) is stop:
                signal.signal(number, before[number])


class Interrupt:
    """Ctrl-C around an event loop: cancels `task` and raises nothing, for an exception out of its middle breaks a loop.

    Whoever repeats it within AGAIN_S changes nothing: what ends is not disturbed. A context manager.
    """

    current: ClassVar[Interrupt | None] = None

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self._last = -math.inf
        self._before = signal.getsignal(signal.SIGINT)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.task is None:
            raise KeyboardInterrupt
        if time.monotonic() - self._last < AGAIN_S:
            return
        self._last = time.monotonic()
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing to cancel
            self.task.get_loop().call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        from cai.models.pace import halt  # heavy, and there where anything is asked

        assert self.task is not None
        halt()
        self.task.cancel()

    def unless_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's handler of exceptions: a signal that Prefect hears by raising one ends the task."""
        error = context.get("exception")
        if error is None or isinstance(error, Exception):
            loop.default_exception_handler(context)
        else:
            self(signal.SIGTERM, None)

    def __enter__(self) -> Self:
        Interrupt.current = self
        if self._before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Interrupt.current = None
        signal.signal(signal.SIGINT, self._before)


def stop_listening() -> None:
    """What is left of the process takes a moment: a second Ctrl-C must not end it with a traceback."""
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, signal.SIG_IGN)


def print_so_far(config: RunConfig, only_begun: bool = False) -> None:
    """Print what a run has done that has not come to its end; nothing where there is nothing that could be read.

    `only_begun`: nothing either where this process has asked nobody yet.
    """
    console = Console()
    with contextlib.suppress(CaiError, OSError, ValueError):
        status = run_status(config.root)
        from cai.clients import board  # heavy, and there where anything was asked

        if not board.left and (only_begun or not status["stages"]):
            return
        console.print(stage_table(status))
        for name, now in board.left.items():
            if not _is_through(now):
                lost = f", {sum(now.drops.values()):,} dropped" if now.drops else ""
                calls = now.calls_made + now.calls_replayed
                console.print(
                    plain(f"{name:<8} {counted(now)} so far, {calls:,} calls{lost}"),
                    soft_wrap=True,
                    highlight=False,
                )
        console.print(_kept(status["stages"], board.left), soft_wrap=True, highlight=False)


def _kept(done: Mapping[str, Mapping[str, Any]], begun: Mapping[str, StageNow]) -> str:
    """What all calls so far come to: of stages that were being worked on as they were left, else as published."""
    calls, tokens, costs = 0, 0, []
    for name in done.keys() | begun.keys():
        now = begun.get(name)
        counts = done[name] if now is None else now.model_dump()
        calls += counts["calls"] if now is None else now.calls_made + now.calls_replayed
        tokens += counts["prompt_tokens"] + counts["completion_tokens"]
        costs.append(counts["cost"])
    return f"kept     {calls:,} calls, {thousands(tokens)} tokens, {dollars(costs)}"


def _is_through(now: StageNow) -> bool:
    return now.rows_done == now.rows_total and not now.in_flight


def _forget(terminal: list[int]) -> None:
    """Write to nowhere instead of to a terminal that is gone, where every line would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in terminal:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
