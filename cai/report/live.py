"""A run while it goes: how far each stage is and how fast, kept in the run's folder for whoever asks there.

The process that works on a run writes `progress.json` about once a second and takes it away at its end; `cai status`
in another terminal reads it. What a killed run left behind is told from what a living one writes by the run's lock.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter, deque
from pathlib import Path

import orjson
from pydantic import ValidationError

from cai.given import read_given
from cai.rows import Row
from cai.shard.progress import Progress
from cai.store.lock import Holder, holder

FILE = "progress.json"
WINDOW_S = 30.0  # what rates are of: long enough to be steady, short enough to tell of a stall


class StageNow(Row):
    """A stage that is being worked on or just was, over all its shards. `rows_total`: None where nobody knows it yet.

    `at_most`: the total is a bound (of comparisons, some fall away). Rates are a second's, of the last half minute;
    `tokens_per_s`: written by models. `eta_s`: seconds to the end at that rate. `cost`: US dollars, None where a
    price is unknown.
    """

    rows_done: int
    rows_total: int | None
    at_most: bool
    rows_per_s: float
    tokens_per_s: float
    calls_made: int
    calls_replayed: int
    in_flight: int
    drops: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    eta_s: float | None


class TrainingNow(Row):
    """A training that is going on."""

    step: int
    total: int
    loss: float | None
    tokens_per_s: float | None


class Live(Row):
    """What a run is at. `at`: when this was written, in seconds since 1970; `said`: the last line that it told.

    `budget`: what is spent of the run's budget, in words; "" without one.
    """

    pid: int
    host: str
    at: float
    said: str
    stages: dict[str, StageNow]
    trainings: dict[str, TrainingNow]
    budget: str = ""


class Meter:
    """Sums and speeds of one stage over its shards. `limit`: most calls of all shards that are let through at once."""

    def __init__(self, total: int | None, at_most: bool = False, limit: int | None = None) -> None:
        self._total, self._at_most, self._limit = total, at_most, limit
        self._shards: dict[int, Progress] = {}
        self._seen: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])

    def update(self, shard: int, progress: Progress) -> None:
        """Take in how far a shard is."""
        self._shards[shard] = progress
        shards = self._shards.values()
        now = time.monotonic()
        self._seen.append((now, sum(s.rows_done for s in shards), sum(s.generated for s in shards)))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_S:
            self._seen.popleft()

    def now(self) -> StageNow:
        """The stage as it is."""
        shards = self._shards.values()
        drops: Counter[str] = Counter()
        for shard in shards:
            drops.update(shard.drops)
        costs = [shard.cost for shard in shards]
        (begun, rows_then, tokens_then), (_, rows, tokens) = self._seen[0], self._seen[-1]
        left = None if self._total is None else max(self._total - rows, 0)
        until = (
            self._seen[-1][0] if left == 0 else time.monotonic()
        )  # a stage that is through has not stalled
        seconds = max(until - begun, 1e-3)
        rate = (rows - rows_then) / seconds
        in_flight = sum(shard.in_flight for shard in shards)
        return StageNow(
            rows_done=rows,
            rows_total=self._total,
            at_most=self._at_most,
            rows_per_s=round(rate, 2),
            tokens_per_s=round((tokens - tokens_then) / seconds, 1),
            calls_made=sum(shard.calls_made for shard in shards),
            calls_replayed=sum(shard.calls_replayed for shard in shards),
            in_flight=in_flight if self._limit is None else min(in_flight, self._limit),
            drops=dict(sorted(drops.items())),
            prompt_tokens=sum(shard.prompt_tokens for shard in shards),
            completion_tokens=sum(shard.completion_tokens for shard in shards),
            cost=None if None in costs else sum(cost for cost in costs if cost is not None),
            eta_s=None if left is None or not rate else round(left / rate, 1),
        )


def write_live(root: Path, live: Live) -> None:
    """Tell how far the run is; a view that cannot be written stops no run, and is not worth waiting for a disk."""
    beside = root / f".{FILE}-{os.getpid()}"
    with contextlib.suppress(OSError):
        beside.write_bytes(orjson.dumps(live.model_dump(mode="json")))
        beside.replace(root / FILE)


def remove_live(root: Path) -> None:
    """Nothing is being worked on any more."""
    with contextlib.suppress(OSError):
        (root / FILE).unlink(missing_ok=True)


def running(root: Path) -> Holder | None:
    """The process that works on the run; None where none does, or this one."""
    found = holder(root / "run.lock")
    return None if found is None or found.pid == os.getpid() else found


def read_live(root: Path) -> Live | None:
    """What the run is at; None where nothing is being worked on."""
    found = running(root)
    if found is None:
        return None
    try:
        live = Live.model_validate_json(read_given(root / FILE))
    except (OSError, ValidationError):  # between two stages, or written by another version
        return None
    return live if (live.pid, live.host) == found else None
