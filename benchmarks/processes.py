"""CPU seconds of this process and of what it started, by what each process is there for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import psutil

ENGINE = re.compile(r"EngineCore|VLLM::Worker")


def cpu_by_role() -> dict[str, float]:
    """CPU seconds so far: `client` (this process), `engine` (vLLM's core), `server` (all else)."""
    found: dict[str, float] = defaultdict(float)
    for role, process in _processes():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found[role] += times.user + times.system
    return dict(found)


def _processes() -> Iterator[tuple[str, psutil.Process]]:
    own = psutil.Process()
    yield "client", own
    for process in own.children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        yield ("engine" if ENGINE.search(title) else "server"), process
