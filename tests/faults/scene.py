"""What all fault scenarios share: a run as a process of its own, and what became of its rows.

A scenario is a coroutine `(folder, seed, times) -> Result`: it injects its fault so many times, at places that depend
on the seed alone, and compares what was published with an undisturbed run. The suite runs it with few times,
`make soak` with many.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.flows.small import published, small_config, write_inputs

LIMIT = 8  # max_concurrency of the small run


class Result(NamedTuple):
    """What a scenario saw. `repeated`: calls made that an undisturbed run does not make; `most`: that many may be.

    `lost`, `doubled`: rows and drops of all stages and files. `recover_s`: for each fault the seconds from it to the
    end, or to the next good call, of what goes on afterwards, as `recovery` says.
    """

    fault: str
    injected: int
    rows: int
    lost: int
    doubled: int
    repeated: int
    most: int
    recover_s: Sequence[float]
    recovery: str = "until the run was through"

    @property
    def median_s(self) -> float:
        """The median time to recover."""
        return statistics.median(self.recover_s) if self.recover_s else 0.0


class Counts(Protocol):
    """A server that knows how many calls it has got."""

    @property
    def calls(self) -> int:
        """Calls so far."""


Scenario = Callable[[Path, int, int], Awaitable[Result]]


def check(result: Result) -> Result:
    """Raise AssertionError where the fault cost more than it may."""
    assert result.injected > 0 and result.rows > 0, result
    assert result.lost == result.doubled == 0, result
    assert result.repeated <= result.most, result
    return result


def write_config(folder: Path, endpoint: str, **changes: Any) -> Path:
    """Inputs and config of the small run as files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_inputs(folder)
    path = folder / "run.yaml"
    path.write_text(json.dumps(small_config(folder, endpoint, **changes)))
    return path


def start(config: Path, *options: str, **more: str) -> subprocess.Popen[bytes]:
    """`cai run CONFIG --no-prefect` in a process group of its own; it hears Ctrl-C also in the background.

    `more`: variables of its environment.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "cai", "run", str(config), "--no-prefect", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "120", **more},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


async def ended(process: subprocess.Popen[bytes], within_s: float = 120) -> tuple[str, str]:
    """Wait for the end; returns what it wrote to stdout and stderr."""
    async with asyncio.timeout(within_s):
        out, errors = await asyncio.to_thread(process.communicate)
    return out.decode(), errors.decode()


async def through(config: Path, *options: str, **more: str) -> str:
    """A run to a good end; returns what it wrote to stdout."""
    process = start(config, *options, **more)
    out, errors = await ended(process)
    assert process.returncode == 0, errors
    return out


async def until_calls(wire: Counts, process: subprocess.Popen[bytes], calls: int) -> bool:
    """Wait until the server has seen so many calls; False where the process ended before."""
    while wire.calls < calls:
        if process.poll() is not None:
            return False
        await asyncio.sleep(0.005)
    return True


def damage(whole: Path, broken: Path) -> tuple[int, int, int]:
    """How many rows a run has, and how many of them another one of the same config has lost and doubled.

    A row whose bytes are different is lost as well.
    """
    before, after = ({name: _lines(raw) for name, raw in published(root).items()} for root in (whole, broken))
    rows = sum(lines.total() for lines in before.values())
    lost = sum((lines - after.get(name, Counter())).total() for name, lines in before.items())
    doubled = sum((lines - before.get(name, Counter())).total() for name, lines in after.items())
    return rows, lost, doubled


def _lines(raw: bytes) -> Counter[bytes]:
    return Counter(raw.splitlines())
