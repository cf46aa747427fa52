"""A budget that is reached again and again: each time the run stops in order, is given more, and goes on.

What is spent is not taken from the run's own counters but from the server and from the journals. It may exceed a cap
by no more than what was in flight; calls never exceed theirs, failed ones and those of killed processes included.
"""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from cai.accounts.spending import Spent, read_spent
from cai.journal_lines import completion_in, lines
from tests.faults.scene import (
    LIMIT,
    Result,
    Scenario,
    damage,
    ended,
    start,
    through,
    until_calls,
    write_config,
)
from tests.flows.small import obliging
from tests.wire import Fault, Wire, wire_server

Cap = Literal["max_calls", "max_tokens", "max_cost"]
MODEL = {"backend": "vllm", "model": "toy", "max_concurrency": LIMIT, "price": {"input": 100, "output": 200}}
PLENTY = 1000  # times what is needed
FAILING = 0.1  # share of attempts
DELAY_S = 0.01


class Journalled(NamedTuple):
    """What the replies in the journals of a run have used in all, and the largest of them."""

    tokens: int
    cost: float
    most_tokens: int
    most_cost: float


def journalled(root: Path) -> Journalled:
    """Read all journals of a run."""
    used = []
    for path in (root / "journal").glob("*/*.jsonl"):
        with path.open("rb") as file:
            found = [completion_in(line) for _, line, intact in lines(file) if intact]
        used += [(one.usage.prompt_tokens + one.usage.completion_tokens, one.cost or 0.0) for one in found]
    tokens, costs = zip(*used, strict=True)
    return Journalled(sum(tokens), sum(costs), max(tokens), max(costs))


class Failing:
    """Fails attempts at random, and counts them."""

    def __init__(self, seed: int) -> None:
        self._rng, self.injected = random.Random(seed), 0

    def __call__(self, number: int) -> Fault | None:
        if self._rng.random() >= FAILING:
            return None
        self.injected += 1
        return self._rng.choice([Fault(status=429, headers={"Retry-After": "0"}), Fault(status=500)])


async def capped(folder: Path, seed: int, times: int, *, cap: Cap, kills: bool = False) -> Result:
    """Stop a run `times` times by one cap, each time a little higher, with failing attempts in between.

    `kills`: each time it is also killed on the way there.
    """
    rng, seconds, injected = random.Random(seed), [], 0
    failing = Failing(seed)
    async with wire_server(obliging) as server:
        model = MODEL | {"endpoint": server.url}
        await through(write_config(folder / "whole", server.url, models={"toy": model}))
        calls, root = server.calls, folder / "whole" / "outputs" / "small"
        needed = {
            "max_calls": calls,
            "max_tokens": journalled(root).tokens,
            "max_cost": journalled(root).cost,
        }
    async with wire_server(obliging, faults=failing, delay_s=DELAY_S) as server:
        models, broken = {"toy": MODEL | {"endpoint": server.url}}, folder / "broken"
        for step in range(1, times + 1):
            most = needed[cap] * step / (times + 1)
            budget = {cap: most if cap == "max_cost" else round(most)}
            config = write_config(broken, server.url, models=models, budget=budget)
            if kills:
                injected += await _killed(config, server, rng)
            begun = time.monotonic()
            injected += await _stopped(config, cap, budget[cap], server)
            seconds.append(time.monotonic() - begun)
        plenty = {cap: PLENTY * needed[cap]}
        await through(write_config(broken, server.url, models=models, budget=plenty))
        repeated = server.calls - failing.injected - calls
    repeatable = LIMIT * times if kills else 0
    rows, lost, doubled = damage(root, broken / "outputs" / "small")
    _check_counters(read_spent(broken / "outputs" / "small"), server.calls, repeatable)
    fault = f"budget.{cap} reached" + (" after kill -9" if kills else "")
    return Result(
        fault,
        injected,
        rows,
        lost,
        doubled,
        repeated,
        repeatable,
        seconds,
        "from going on until it stops again",
    )


async def _killed(config: Path, server: Wire, rng: random.Random) -> int:
    """Kill the run after a few more calls; 0 where it was stopped before."""
    process = start(config)
    alive = await until_calls(server, process, server.calls + rng.randrange(1, 30))
    process.kill()
    await ended(process)
    return int(alive)


async def _stopped(config: Path, cap: Cap, most: float, server: Wire) -> int:
    """Run until the cap stops it, and hold what is spent against the cap."""
    process = start(config)
    out, errors = await ended(process)
    assert process.returncode == 1 and errors.count("error: ") == 1, errors
    assert f"error: budget.{cap} is reached" in errors and "resume with" in errors, errors
    assert "rows were done" in errors and "run small" in out, (errors, out)
    spent = journalled(config.parent / "outputs" / "small")
    assert server.in_flight == 0
    if cap == "max_calls":
        assert server.calls <= most
    elif cap == "max_tokens":
        assert spent.tokens < most + LIMIT * spent.most_tokens
    else:
        assert spent.cost < most + LIMIT * spent.most_cost
    return 1


def _check_counters(spent: Spent | None, calls: int, in_flight: int) -> None:
    """No attempt is missing in the counters, and what came of each is known but for those killed `in_flight`."""
    assert spent is not None
    assert calls <= spent.calls <= calls + in_flight, (spent, calls)
    assert 0 <= spent.lost <= in_flight, spent


CALLS: Scenario = partial(capped, cap="max_calls")
TOKENS: Scenario = partial(capped, cap="max_tokens")
MONEY: Scenario = partial(capped, cap="max_cost")
KILLED: Scenario = partial(capped, cap="max_calls", kills=True)
SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "a cap on calls reached, every tenth attempt fails": (CALLS, 10),
    "a cap on tokens reached, every tenth attempt fails": (TOKENS, 10),
    "a cap on money reached, every tenth attempt fails": (MONEY, 10),
    "a cap on calls reached, with kill -9 on the way": (KILLED, 10),
}
