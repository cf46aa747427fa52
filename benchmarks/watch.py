"""A command watched from outside: wall time, CPU time and memory of its whole process tree.

CPU time is what the kernel accounts for the command and all its waited-for children, or the sum of what was seen
of each process where that is more (a child that nobody waited for). Memory is the sum of PSS over the
tree, so pages that processes share count once; it is sampled, and a spike between two samples is not seen.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

INTERVAL_S = 0.2


class Sample(NamedTuple):
    """The tree at one moment. `at_s`: of the monotonic clock. `cpu_s`: used so far. `mb`: PSS."""

    at_s: float
    cpu_s: float
    mb: float


class Watched(NamedTuple):
    """What a command cost. `started_s`: of the monotonic clock, before it was started."""

    status: int
    output: str
    started_s: float
    seconds: float
    cpu_s: float
    samples: tuple[Sample, ...]

    @property
    def peak_mb(self) -> float:
        """Most memory that was seen at once."""
        return max((sample.mb for sample in self.samples), default=0.0)

    def peak_between_mb(self, first_s: float, last_s: float) -> float | None:
        """Most memory that was seen between two moments; None without a sample there."""
        return max((sample.mb for sample in self.samples if first_s <= sample.at_s <= last_s), default=None)

    def cpu_at(self, at_s: float) -> float:
        """CPU seconds used by a moment, between the samples around it."""
        before = Sample(self.started_s, 0.0, 0.0)
        for sample in (*self.samples, Sample(self.started_s + self.seconds, self.cpu_s, 0.0)):
            if sample.at_s >= at_s:
                span = max(sample.at_s - before.at_s, 1e-9)
                share = max(0.0, at_s - before.at_s) / span
                return before.cpu_s + share * (sample.cpu_s - before.cpu_s)
            before = sample
        return self.cpu_s


def watch(
    command: Sequence[str | Path],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    core: int | None = None,
) -> Watched:
    """Run a command to its end. `core`: where it may run, with all its children; None: anywhere."""
    used_before = os.times()
    started = time.monotonic()
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    samples: list[Sample] = []
    ended = threading.Event()
    sampler = threading.Thread(target=_sample, args=(process.pid, samples, ended), daemon=True)
    sampler.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - started
    ended.set()
    sampler.join()
    used = os.times()
    accounted = (used.children_user - used_before.children_user) + (
        used.children_system - used_before.children_system
    )
    cpu_s = max(accounted, samples[-1].cpu_s if samples else 0.0)
    return Watched(process.returncode, output, started, seconds, cpu_s, tuple(samples))


def _sample(pid: int, samples: list[Sample], ended: threading.Event) -> None:
    """Append a sample at every interval. CPU time of processes that are gone stays counted."""
    used: dict[int, float] = {}
    try:
        root = psutil.Process(pid)
        while not ended.is_set():
            mb = 0.0
            for process in [root, *root.children(recursive=True)]:
                mb += _take(process, used)
            samples.append(Sample(time.monotonic(), sum(used.values()), mb))
            ended.wait(INTERVAL_S)
    except psutil.Error:
        return  # the command is gone


def _take(process: psutil.Process, used: dict[int, float]) -> float:
    """Note the CPU seconds of a process, and give its memory in MB; 0 where it has just ended."""
    try:
        times = process.cpu_times()
        used[process.pid] = times.user + times.system
        return float(process.memory_full_info().pss / 1e6)
    except psutil.Error:
        return 0.0
