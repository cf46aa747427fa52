"""The one retry policy around every model call, whatever the backend.

An attempt fails with `AttemptFailed`, which says what went wrong and nothing about what to do. The policy
decides: only failures that may pass are tried again, after exponential backoff with full jitter or after
the `Retry-After` that the server asked for, and never beyond the deadline of the call. A 429 costs time
only, not an attempt: being early is not being wrong. The SDKs' own retries are off, so nothing multiplies.

Every attempt goes through the model's `Pacer`, and holds a place there only while it is under way: a call
that waits out a `Retry-After` stands in nobody's way. What it waits for its turn is no part of the deadline.
Nor is what it waits for an endpoint that answers nobody, see `circuit`. A good first attempt costs no machinery;
tenacity comes in with the first failure.

What leaves here is a ProviderError of one line without any key in it, even where a server echoes the key.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from cai.errors import ProviderError, ProviderErrorKind
from cai.models.base import Attempts, Completion, Request, attempts
from cai.models.check import silent
from cai.models.circuit import Circuit
from cai.models.deadlines import Deadlines
from cai.models.failures import KINDS, PASSING, AttemptFailed, Why
from cai.models.pace import Pacer, unpaced
from cai.rows import Message

T = TypeVar("T")
BASE_S = 0.125  # the mean first wait is half of it: short beside a reply, and doubled with every failure
CAP_S = 30.0
CONNECT_TIMEOUT_S = 20.0
KEEP_ALIVE_S = 30.0  # an idle connection; well below the minute or so after which servers close it
ATTEMPTS = 9  # some 16 s of waits on average, so that a server that restarts is outlived
FEW_ATTEMPTS = 3  # nobody listens, or the reply is not the protocol: more of the same rarely helps
SOON_S = 1.0  # at most so long after a Retry-After, for as many failures as an endpoint in trouble would get
DETAIL_CHARS = 300
CANARY = Request(messages=(Message(role="user", content="Hi"),), max_tokens=1)


@dataclass(slots=True)
class _Call:
    """What one call has used up so far. `ends`: its deadline on the event loop's clock."""

    request: Request | None
    ends: float = 0.0
    attempts: int = 0
    spent: int = 0

    def left(self) -> float:
        return self.ends - asyncio.get_running_loop().time()


class RetryPolicy:
    """Runs the attempts of a call, and words the error of the last one.

    `timeout_s` bounds one attempt, `deadline_s` the call with all its waits. `key` is what must never
    appear in a message, `key_env` the variable to name instead. `pacer`: gives the pacer that all clients of
    the model share in the running event loop, and `circuit` their circuit. `canary`: makes one attempt at a
    request, with which an endpoint in trouble is asked whether it is back; None: it is not waited for.
    `say`: takes a line when the waiting begins.
    """

    def __init__(
        self,
        model: str,
        endpoint: str,
        *,
        timeout_s: float,
        deadline_s: float,
        key: str,
        key_env: str,
        pacer: Callable[[], Pacer] = unpaced,
        circuit: Callable[[], Circuit] | None = None,
        canary: Callable[[Request], Awaitable[object]] | None = None,
        say: Callable[[str], None] = silent,
    ) -> None:
        self._name = f"{model} at {endpoint}"
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._key = key
        self._key_env = key_env
        self._pacer_of_loop = pacer
        self._pacer: Pacer | None = None
        self._circuit_of_loop = circuit or partial(Circuit, deadline_s)
        self._circuit: Circuit | None = None
        self._canary = canary
        self._say = say
        self._deadlines = Deadlines()

    @property
    def pacer(self) -> Pacer:
        """The pacer of the calls; only in an event loop, and then always of this one."""
        if self._pacer is None:
            self._pacer = self._pacer_of_loop()
        return self._pacer

    @property
    def circuit(self) -> Circuit:
        """The circuit of the endpoint; only in an event loop, and then always of this one."""
        if self._circuit is None:
            self._circuit = self._circuit_of_loop()
        return self._circuit

    async def call(self, once: Callable[[], Awaitable[T]], request: Request | None = None) -> T:
        """The result of `once`, tried again while that can help. Raises ProviderError when it cannot.

        `request`: what is asked, for limits on tokens; None for calls that generate nothing.
        """
        call = _Call(request)
        try:
            return await self._attempt(once, call)
        except AttemptFailed as failure:
            first = failure
        return await self._again(once, call, first)

    async def _attempt(self, once: Callable[[], Awaitable[T]], call: _Call) -> T:
        loop, pacer, circuit = asyncio.get_running_loop(), self.pacer, self.circuit
        asked = loop.time()
        sent = await pacer.enter(call.request, call.attempts > 0)
        while circuit.open:  # nobody holds a place while waiting for the endpoint
            pacer.leave(sent, None)
            asked = await self._outage(call)
            sent = await pacer.enter(call.request, call.attempts > 0)
        begun = loop.time()
        call.ends = begun + self._deadline_s if not call.attempts else call.ends + (begun - asked)
        call.attempts += 1
        limit = min(self._timeout_s, call.ends - begun)
        congested: bool | None = None
        told = attempts.get() if call.request is not None else None
        try:
            if told is not None:
                told.begins()
            async with asyncio.timeout(None) as timeout:
                self._deadlines.add(timeout, begun + limit)
                try:
                    result = await once()
                finally:
                    self._deadlines.remove(timeout)
            congested = False
        except (TimeoutError, AttemptFailed) as error:
            failure = error if isinstance(error, AttemptFailed) else _late(limit)
            self._failed(call, told, failure)
            congested = failure.congested
            if failure is error:
                raise
            raise failure from error
        finally:
            pacer.leave(sent, congested)
        if not circuit.well:
            circuit.succeeded()
        if isinstance(result, Completion):
            pacer.settle(sent, result.usage)
        return result

    def _failed(self, call: _Call, told: Attempts | None, failure: AttemptFailed) -> None:
        call.spent += failure.why != "rate_limit"
        if told is not None:
            told.failed(failure.why)
        if self._canary is not None and self.circuit.failed(id(call), failure):
            wait = f"calls wait until it answers, for {self._deadline_s:g} s at most"
            self._say(
                f"{self._name}: {self.circuit.failures} attempts in a row have failed, the last one: "
                f"{self._told(failure)}; {wait}"
            )

    async def _outage(self, call: _Call) -> float:
        """Wait until the endpoint answers again, and return that time; what a call has used up is given back."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if await self.circuit.wait(partial(self._probe, attempts.get())):
            call.spent, call.ends = 0, loop.time() + self._deadline_s
        else:
            call.ends += loop.time() - begun
        return loop.time()

    async def _probe(self, told: Attempts | None) -> None:
        """Ask the endpoint whether it is there; counted as an attempt that has failed, for its reply serves nobody."""
        assert self._canary is not None
        why = "probe"
        if told is not None:
            told.begins()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._canary(CANARY)
        except TimeoutError as error:
            why = "transient"
            raise _late(self._timeout_s) from error
        except AttemptFailed as failure:
            why = failure.why
            raise
        finally:
            if told is not None:
                told.failed(why)

    async def _again(self, once: Callable[[], Awaitable[T]], call: _Call, first: AttemptFailed) -> T:
        """Go on after the first failure, which counts as the first attempt."""
        begin: AttemptFailed | None = first

        async def attempt() -> T:
            nonlocal begin
            if begin is not None:
                failure, begin = begin, None
                raise failure
            return await self._attempt(once, call)

        def wait(state: RetryCallState) -> float:
            return _wait(state, call.left() if self.circuit.open else math.inf)

        def stop(state: RetryCallState) -> bool:
            if self.circuit.open:
                return False
            return self._exhausted(_failure(state).why, call) or state.upcoming_sleep >= call.left()

        retrying = AsyncRetrying(
            sleep=_stand_aside,
            retry=retry_if_exception(lambda error: isinstance(error, AttemptFailed) and error.why in PASSING),
            wait=wait,
            stop=stop,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except AttemptFailed as failure:
            # Not chained: the SDK's own error below it can hold the request, and with it the key.
            raise self._error(failure, call) from None

    def _exhausted(self, why: Why, call: _Call) -> bool:
        """True where the attempts that this kind of failure is worth are used up."""
        few = why == "malformed" or (why == "refused" and not self.circuit.reached)
        return why != "rate_limit" and call.spent >= (FEW_ATTEMPTS if few else ATTEMPTS)

    def _error(self, failure: AttemptFailed, call: _Call) -> ProviderError:
        kind, fix = self._verdict(failure, call)
        return ProviderError(kind, f"{self._name}: {self._told(failure)}; {fix}")

    def _told(self, failure: AttemptFailed) -> str:
        """A failure in few words of one line, without the key."""
        detail = " ".join(str(failure).split())
        return (detail.replace(self._key, "***") if self._key else detail)[:DETAIL_CHARS]

    def _verdict(self, failure: AttemptFailed, call: _Call) -> tuple[ProviderErrorKind, str]:
        tried = f"tried {call.attempts} times" if call.attempts != 1 else "tried once"
        if failure.why in KINDS:
            kind, fix = KINDS[failure.why]
            return kind, fix.format(key_env=self._key_env, tried=tried)
        left = call.left()
        if failure.retry_after is not None and failure.retry_after >= left > 0:
            wait = f"it asks to wait {failure.retry_after:.0f} s with {left:.0f} s left of deadline_s"
            return "retries_exhausted", f"{wait}; raise deadline_s, lower max_concurrency or resume later"
        fix = f"lower max_concurrency or raise deadline_s (now {self._deadline_s:g} s)"
        return "retries_exhausted", f"{tried}; {fix}"


def _late(limit: float) -> AttemptFailed:
    return AttemptFailed("transient", f"no reply within {limit:.3g} s", congested=True)


def _failure(state: RetryCallState) -> AttemptFailed:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, AttemptFailed)
    return error


async def _stand_aside(seconds: float) -> None:
    """Sleep, and let whoever bounds the calls in flight know that this one uses nothing meanwhile."""
    told = attempts.get()
    if told is None:
        return await asyncio.sleep(seconds)
    told.aside(1)
    try:
        await asyncio.sleep(seconds)
    finally:
        told.aside(-1)


def _wait(state: RetryCallState, most: float) -> float:
    """Seconds until the next attempt; never before a `Retry-After` of less than `most`, and spread over callers."""
    backoff = random.uniform(0.0, min(CAP_S, BASE_S * 2.0 ** min(state.attempt_number - 1, 10)))
    asked = _failure(state).retry_after
    if asked is None or asked >= most:
        return backoff
    return asked + (min(backoff, SOON_S) if state.attempt_number <= ATTEMPTS else backoff)
