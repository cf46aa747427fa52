"""kill -9 of whatever a run consists of, at moments that a seed draws: while it starts, asks, publishes, reports.

What was killed is started again until it is through. After each kill nothing of it may be left running and no file may
be half written; in the end all rows have the bytes of an undisturbed run.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.faults.after import check_end, check_files, kill, left, mark, until_gone
from tests.faults.scene import (
    LIMIT,
    Counts,
    Result,
    Scenario,
    damage,
    ended,
    start,
    until_calls,
    write_config,
)
from tests.flows.small import obliging
from tests.wire import wire_server

DELAY_S = 0.03
KILLS = 3  # of one run on its way, at most
AGAIN = "from starting it again until it is through"
Process = subprocess.Popen[bytes]
Environment = dict[str, str]


class Whole(NamedTuple):
    """An undisturbed run: its folder, the calls that it made, and how long it took."""

    root: Path
    calls: int
    seconds: float


class Moment(NamedTuple):
    """When to kill: at this share (0 to 1) of the calls that are still to be made, or of an undisturbed run's time."""

    by_calls: bool
    share: float

    async def comes(self, process: Process, server: Counts, whole: Whole, asked: int) -> bool:
        """Wait for it; False where the process ends before. `asked`: calls that are behind it, those repeated too."""
        if self.by_calls and whole.calls > asked:
            wanted = server.calls + 1 + int(self.share * (whole.calls - asked))
            return await until_calls(server, process, wanted)
        end = time.monotonic() + self.share * whole.seconds
        while time.monotonic() < end and process.poll() is None:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.005)
        return process.poll() is None


class Tally:
    """What the kills of one scenario add up to."""

    def __init__(self) -> None:
        self.kills = self.rows = self.lost = self.doubled = self.repeated = 0
        self.seconds: list[float] = []

    def compare(self, whole: Whole, root: Path, calls: int) -> None:
        """Take in a run that is through. `calls`: all that were made for it."""
        self.rows, lost, doubled = damage(whole.root, root)
        self.lost += lost
        self.doubled += doubled
        self.repeated += calls - whole.calls

    def result(self, fault: str, recovery: str = AGAIN) -> Result:
        """The line of the table."""
        most = self.kills * LIMIT
        seconds = tuple(self.seconds)
        return Result(
            fault, self.kills, self.rows, self.lost, self.doubled, self.repeated, most, seconds, recovery
        )


def plain(config: Path, environment: Environment) -> Process:
    """`cai run CONFIG --no-prefect`."""
    return start(config, **environment)


def with_prefect(config: Path, environment: Environment) -> Process:
    """`cai run CONFIG`, with a Prefect home of its own and a temporary Prefect server."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "pipeline", str(config)],
        env={
            **os.environ,
            "PREFECT_HOME": str(config.parents[1] / "prefect"),
            "PREFECT_API_URL": "",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


async def run_killed(folder: Path, seed: int, times: int) -> Result:
    """The process of `cai run --no-prefect`."""
    return await _killed(plain, "kill -9 of the run", folder, seed, times)


async def prefect_run_killed(folder: Path, seed: int, times: int) -> Result:
    """The process group of a run under Prefect; every other time its temporary server in the same moment."""
    return await _killed(with_prefect, "kill -9 of a run under Prefect", folder, seed, times)


async def _killed(
    begin: Callable[[Path, Environment], Process], fault: str, folder: Path, seed: int, times: int
) -> Result:
    rng, tally = random.Random(seed), Tally()
    async with wire_server(reply=obliging, delay_s=DELAY_S) as server:
        whole = await undisturbed(begin, write_config(folder / "whole", server.openai_url), server)
        for number in range(3 * times):
            if tally.kills >= times:
                break
            config = write_config(folder / f"run-{number}", server.openai_url)
            moments = [
                Moment(rng.random() < 0.5, rng.random()) for _ in range(min(KILLS, times - tally.kills))
            ]
            await _kill_on_the_way(begin, config, moments, server, whole, tally)
    return tally.result(fault)


async def undisturbed(begin: Callable[[Path, Environment], Process], config: Path, server: Counts) -> Whole:
    before, started = server.calls, time.monotonic()
    await through(begin(config, mark()))
    return Whole(root_of(config), server.calls - before, time.monotonic() - started)


async def _kill_on_the_way(
    begin: Callable[[Path, Environment], Process],
    config: Path,
    moments: list[Moment],
    server: Counts,
    whole: Whole,
    tally: Tally,
) -> None:
    root, before = root_of(config), server.calls
    for moment in moments:
        environment = mark()
        process = begin(config, environment)
        if await moment.comes(process, server, whole, server.calls - before):
            kill(left(environment) if int(moment.share * 1000) % 2 else [])  # with all that it has started
            os.killpg(
                process.pid, signal.SIGKILL
            )  # or with its own group only, and the others have to notice
        _, errors = await ended(process)
        if process.returncode != -signal.SIGKILL:  # it was through before
            assert process.returncode == 0, errors
            break
        tally.kills += 1
        await until_gone(environment)
        check_files(root)
    started = time.monotonic()
    await through(begin(config, mark()))
    tally.seconds.append(time.monotonic() - started)
    check_end(root)
    tally.compare(whole, root, server.calls - before)


async def through(process: Process) -> str:
    """Wait for a good end; returns what it wrote to stderr."""
    _, errors = await ended(process, 600)
    assert process.returncode == 0, errors
    return errors


def root_of(config: Path) -> Path:
    """The folder of the small run."""
    return config.parent / "outputs" / "small"


SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "kill -9 of the run, at any moment": (run_killed, 30),
    "kill -9 of a run under Prefect, its server included": (prefect_run_killed, 6),
}
