"""What providers do wrong and what may pass: a run that meets it publishes the rows of an undisturbed one.

Each class of faults hits calls at places drawn by the seed, over each protocol in turn. The last scenario takes the
server away altogether, again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from cai.config import RunConfig
from cai.models.circuit import FAILURES
from tests.conduct import here
from tests.faults.scene import LIMIT, Result, Scenario, damage, write_config
from tests.flows.small import obliging
from tests.wire import Fault, Json, Wire, wire_server

Backend = Literal["vllm", "openai", "anthropic"]
BACKENDS: tuple[Backend, ...] = ("vllm", "openai", "anthropic")
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
TIMEOUT_S = 2.0  # of one attempt, for what hangs; a call of the loopback server takes milliseconds
RECOVERY = "from the fault to the call's next good reply"
GONE_S = 1.0  # for which the server is away
EVERY = 60  # calls from one return of the server to its next end


class Kind(NamedTuple):
    """A class of faults. `faults`: injected in turn. `scored`: only where logprobs are asked for.

    `passes`: such a reply is a good one, and is not asked for again.
    """

    faults: tuple[Fault, ...]
    scored: bool = False
    passes: bool = False


def waits() -> tuple[Fault, ...]:
    """429s that ask for a wait in each of the ways there are, sensible or not, or in none."""
    at = email.utils.formatdate(time.time() + 1, usegmt=True)
    past, naive = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00"
    said = ["0.05", at, past, naive, "-5", "1e9", "NaN", "soon", "inf"]
    asked = [{"Retry-After": value} for value in said] + [{"retry-after-ms": "20"}, {}]
    return tuple(Fault(status=429, headers=headers) for headers in asked)


def put(*path: str | int, value: Any) -> Fault:
    """A good reply with another value at this place of the OpenAI protocol, or what comes nearest in the other."""

    def spoil(reply: Json) -> Json:
        keys = path if path[0] in reply else {"choices": ("stop_reason",), "usage": path}[str(path[0])]
        at: Any = reply
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        return reply

    return Fault(spoil=spoil)


def first_logprob(value: Any) -> Fault:
    """A good reply with another value as the first logprob that a choice is read from."""
    return put("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "logprob", value=value)


def raw(change: Callable[[bytes], bytes]) -> Fault:
    """A good reply with its bytes changed."""
    return Fault(spoil=lambda reply: change(orjson.dumps(reply)))


KINDS: dict[str, Kind] = {
    "429 with a Retry-After in seconds, as a date, as nonsense, or without one": Kind(waits()),
    "500, 502, 503 and 408": Kind(tuple(Fault(status=status) for status in (500, 502, 503, 408))),
    "529 (overloaded)": Kind((Fault(status=529),)),
    "connection reset before the reply": Kind((Fault("reset"),)),
    "connection reset in the middle of the body": Kind((Fault("cut"), Fault("unended"))),
    "no reply, or headers and no body": Kind((Fault("hang"), Fault("headers"))),
    "a reply that drips in for longer than timeout_s": Kind((Fault("drip"),)),
    "truncated JSON, invalid UTF-8, the reply twice in one body": Kind(
        (
            Fault("truncated"),
            raw(lambda body: body.replace(b'"id"', b'"i\xff"')),
            raw(lambda body: body + body),
            raw(lambda body: body + b"}"),
            raw(lambda body: b"[" + body + b"]"),
        )
    ),
    "a page with status 200, a body that is not what its encoding says": Kind((Fault("html"), Fault("gzip"))),
    "no choices, an error with status 200, a finish reason that nobody knows": Kind(
        (
            Fault(spoil=lambda reply: reply | {"choices": [], "content": None}),
            Fault(spoil=lambda reply: {"error": {"message": "the upstream is busy", "code": 502}}),
            put("choices", 0, "finish_reason", value="on a whim"),
        )
    ),
    "logprobs that are none: null, text, above 0, NaN": Kind(
        (
            first_logprob(None),
            first_logprob("-0.5"),
            first_logprob(5.0),
            first_logprob(1e6),
            put("choices", 0, "logprobs", "content", value=[None]),
            raw(lambda body: body.replace(b'"logprob":', b'"logprob":NaN,"was":')),
        ),
        scored=True,
    ),
    "usage that is negative, text, or absurd": Kind(
        tuple(
            Fault(spoil=lambda reply, n=n: reply | {"usage": {"prompt_tokens": n, "input_tokens": n}})  # type: ignore[misc]
            for n in (-5, "12", 1e300, 10**15, True)
        )
    ),
    "usage missing, another content type, more choices than asked for": Kind(
        (
            Fault("no_usage"),
            Fault(mime="text/plain"),
            Fault(
                spoil=lambda reply: reply | {"choices": [*reply.get("choices", ()), {"message": "another"}]}
            ),
        ),
        passes=True,
    ),
}


class Injected:
    """Faults at drawn places, none twice on one call, and when each of these calls was answered well."""

    def __init__(self, wire: Wire, places: Sequence[int], kinds: Sequence[Kind], rng: random.Random) -> None:
        self.count = self.asked_again = 0
        self.recover_s: list[float] = []
        self._wire, self._rng = wire, rng
        drawn = [(kind, fault) for kind in kinds for fault in kind.faults]
        self._rng.shuffle(drawn)
        self._due = [(place, *drawn[n % len(drawn)]) for n, place in enumerate(sorted(places))]
        self._open: dict[bytes, float] = {}

    def __call__(self, number: int) -> Fault | None:
        """The fault of the call with this number."""
        body = self._wire.requests[number]
        key = orjson.dumps(body)
        if (begun := self._open.pop(key, None)) is not None:
            self.recover_s.append(time.monotonic() - begun)
            return None
        for index, (place, kind, fault) in enumerate(self._due):
            if place > number:
                break
            if not kind.scored or body.get("logprobs"):
                del self._due[index]
                self.count += 1
                if not kind.passes:
                    self.asked_again += 1
                    self._open[key] = time.monotonic()
                return fault
        return None


@contextlib.contextmanager
def keys() -> Iterator[None]:
    """Keys for the hosted protocols."""
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(dict.fromkeys(KEYS, "sk-loopback"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def config_of(folder: Path, server: Wire, backend: Backend, **changes: Any) -> RunConfig:
    """The small run over one of the protocols."""
    url = server.openai_url if backend == "openai" else server.url
    toy = {
        "backend": backend,
        "model": "toy",
        "endpoint": url,
        "max_concurrency": LIMIT,
        "timeout_s": TIMEOUT_S,
    }
    sampling = {"max_tokens": 64, "temperature": None, "top_p": None}
    roles = {
        "models": {"toy": toy | changes},
        "policy": {"model": "toy", "n": 2, "sampling": sampling},
        "critic": {"model": "toy", "rounds": 2, "sampling": sampling},
        "judge": {"model": "toy", "principles": 2, "threshold": 0.6, "sampling": sampling},
    }
    return RunConfig.model_validate(orjson.loads(write_config(folder, url, **roles).read_bytes()))


async def undisturbed(folder: Path, backend: Backend) -> tuple[Path, int]:
    """A run without faults: where it is, and how many calls it took."""
    async with wire_server(reply=obliging) as server:
        config = config_of(folder, server, backend)
        await here.judge(config)
    return config.root, server.calls


async def disturbed(
    kinds: Sequence[Kind], folder: Path, seed: int, times: int, backends: Sequence[Backend] = BACKENDS
) -> Result:
    """Runs that meet these faults, `times` in all, spread evenly over the protocols."""
    chosen = [one for one in backends if one != "anthropic" or not all(kind.scored for kind in kinds)]
    total = Result("", 0, 0, 0, 0, 0, 0, [], RECOVERY)
    for index, backend in enumerate(chosen):
        share = times // len(chosen) + (index < times % len(chosen))
        if share:
            total = _added(total, await _one(kinds, folder / backend, f"{seed} {backend}", share, backend))
    return total


async def _one(kinds: Sequence[Kind], folder: Path, seed: str, times: int, backend: Backend) -> Result:
    rng = random.Random(seed)
    with keys():
        whole, calls = await undisturbed(folder / "whole", backend)
        faults: list[Injected] = []
        async with wire_server(reply=obliging, faults=lambda n: faults[0](n)) as server:
            places = rng.sample(range(calls // 2), min(times, calls // 2))  # there is time for all of them
            faults.append(Injected(server, places, kinds, rng))
            config = config_of(folder / "broken", server, backend)
            await here.judge(config)
    found = faults[0]
    repeated = max(0, server.calls - calls - found.asked_again)
    most = found.asked_again // FAILURES  # questions whether the endpoint answers at all
    return Result("", found.count, *damage(whole, config.root), repeated, most, found.recover_s, RECOVERY)


def _added(one: Result, two: Result) -> Result:
    return two._replace(
        injected=one.injected + two.injected,
        rows=one.rows + two.rows,
        lost=one.lost + two.lost,
        doubled=one.doubled + two.doubled,
        repeated=one.repeated + two.repeated,
        most=one.most + two.most,
        recover_s=[*one.recover_s, *two.recover_s],
    )


async def outage(folder: Path, seed: int, times: int) -> Result:
    """The server ends in the middle of its calls, and another one listens there after a while."""
    rng = random.Random(seed)
    backend = BACKENDS[seed % len(BACKENDS)]
    with keys():
        whole, calls = await undisturbed(folder / "whole", backend)
        parts: list[Wire] = []
        port, recovered = 0, []
        run: asyncio.Task[dict[str, int]] | None = None
        for part in range(times + 1):
            last = part == times
            async with wire_server(reply=obliging, port=port, delay_s=0.005) as server:
                parts.append(server)
                back, port = time.monotonic(), int(server.url.rpartition(":")[2])
                if run is None:
                    config = config_of(folder / "broken", server, backend)
                    run = asyncio.create_task(here.judge(config))
                while not run.done() and not server.calls:  # noqa: ASYNC110 - nothing to wait on
                    await asyncio.sleep(0.005)
                if part and server.calls:
                    recovered.append(time.monotonic() - back)
                end = rng.randrange(EVERY // 2, EVERY)
                while not run.done() and (last or server.calls < end):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            if run.done():
                break
            await asyncio.sleep(GONE_S)
        assert run is not None
        await run
    gone = len(parts) - 1
    repeated = max(0, sum(part.calls for part in parts) - calls)
    most = gone * (LIMIT + 1)  # those that were cut off, and the question whether the server is back
    recovery = "from the server's return to its first call"
    return Result("", gone, *damage(whole, config.root), repeated, most, recovered, recovery)


SCENARIOS: dict[str, tuple[Scenario, int]] = {
    name: (partial(disturbed, [kind]), 60) for name, kind in KINDS.items()
}
SCENARIOS["the server is gone for a second"] = (outage, 6)
