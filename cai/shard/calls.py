"""A step's way to its model: a request is answered from the journal, or asked once and journalled first.

Calls are made by callers, tasks of their own that take one request after the other from a queue. So a row that
fails does not take down the calls beside it (they are paid for, and are kept), and a request that is already
queued or in flight is joined instead of asked twice. The number of callers bounds the calls in flight; a call that
waits out a failure is not in flight, and another caller stands in for it. A fatal failure stops new calls at once,
whatever the steps do with the error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from cai.accounts.budget import Spending
from cai.accounts.tally import Tally
from cai.errors import CaiError, ParseError, ProviderError, Refused
from cai.journal import Journal
from cai.models.base import ChatModel, Completion, Request, attempts, derive_seed

T = TypeVar("T")
ATTEMPTS = 3  # times that a reply which does not parse is asked for, in all


class Asked(NamedTuple):
    """A reply and the journal key of the call behind it."""

    completion: Completion
    call: str


Ask = Callable[[Request], Awaitable[Asked]]


class Calls:
    """Asks `model` through `journal`, at most `limit` calls at a time.

    `on_call` runs after each finished call. `stopped`: why no call may start any more; set by a fatal
    failure, or from outside. `in_flight`: calls begun and not ended, those included that wait for their turn
    at the endpoint. `spending`: what counts them for the run's budget. It is the `Attempts` of its calls.
    """

    def __init__(
        self, model: ChatModel, journal: Journal, limit: int, spending: Spending | None = None
    ) -> None:
        self.tally = Tally()
        self.stopped: CaiError | None = None
        self.in_flight = 0
        self.on_call: Callable[[], None] = lambda: None
        self._model = model
        self._identity = model.identity
        self._journal = journal
        self._limit = limit
        self._spending = spending
        self._queue: deque[tuple[str, Request]] = deque()
        self._callers: set[asyncio.Task[None]] = set()
        self._aside: set[asyncio.Task[None] | None] = set()
        self._waiting: dict[str, list[asyncio.Future[Completion]]] = {}  # who waits for a call, by its key

    async def ask(self, request: Request) -> Asked:
        """Answer one request. Raises ProviderError, or StoreError where the reply cannot be kept."""
        if self.stopped is not None:
            raise self.stopped
        key = self._key(request)
        waiting = self._waiting.get(key)
        if waiting is None:
            first = not self._journal.used(key)
            stored = self._journal.get(key)
            if stored is not None:
                if first:
                    self.tally.add(stored, made=False)
                return Asked(stored, key)
            waiting = self._waiting[key] = []
            self._queue.append((key, request))
            if len(self._callers) < self._limit:
                self._add_caller()
        future = asyncio.get_running_loop().create_future()
        waiting.append(future)
        return Asked(await future, key)

    async def drain(self, grace_s: float | None) -> None:
        """Wait for the calls in flight; those left after `grace_s` seconds (None: no limit) are cancelled.

        So are those that wait out a failure, once no attempt may start any more.
        """
        if self.stopped is not None:
            for caller in self._aside:
                if caller is not None:
                    caller.cancel()
        try:
            while self._callers:
                _, late = await asyncio.wait(self._callers, timeout=grace_s)
                for caller in late:
                    caller.cancel()
                await asyncio.gather(*late, return_exceptions=True)
        finally:  # cancelled while waiting
            for caller in self._callers:
                caller.cancel()
            while self._queue:
                for future in self._answered(self._queue.popleft()[0]):
                    future.cancel()

    def _add_caller(self) -> None:
        caller = asyncio.create_task(self._caller())
        self._callers.add(caller)
        caller.add_done_callback(self._callers.discard)  # also one that is cancelled before it starts

    def begins(self, hold: Request | None = None) -> None:
        """An attempt is about to be sent. Raises BudgetError."""
        if self._spending is not None:
            self._spending.begins(hold)
        self.tally.attempts += 1

    def joins(self, request: Request) -> None:
        """An attempt that was sent before is waited for."""
        if self._spending is not None:
            self._spending.holds(request)
        self.tally.attempts += 1

    def failed(self, why: str) -> None:
        """An attempt has ended without a reply."""
        self.tally.failed_attempts[why] += 1
        if self._spending is not None:
            self._spending.failed(why)

    def ends(self, request: Request) -> None:
        """What was held for a request is let go."""
        if self._spending is not None:
            self._spending.ends(request)

    def aside(self, change: int) -> None:
        """A call begins to wait out a failure (1) or goes on (-1): meanwhile another is made in its place."""
        (self._aside.add if change > 0 else self._aside.discard)(asyncio.current_task())
        self._limit += change
        if change > 0 and self._queue and self.stopped is None:
            self._add_caller()

    async def _caller(self) -> None:
        """Make calls until the queue is empty or there are too many callers; who waits gets reply or error."""
        attempts.set(self)
        try:
            while self._queue and len(self._callers) <= self._limit:
                key, request = self._queue.popleft()
                try:
                    completion = await self._call(key, request)
                except Exception as error:
                    for future in self._answered(key):
                        future.set_exception(error)
                        future.exception()  # seen, also where the row that asked is gone
                except BaseException:
                    for future in self._answered(key):
                        future.cancel()
                    raise
                else:
                    for future in self._answered(key):
                        future.set_result(completion)
        finally:  # at once: the next request must not count on a caller that is gone
            self._callers.discard(asyncio.current_task())

    def _answered(self, key: str) -> list[asyncio.Future[Completion]]:
        """Those who still wait for a call that is over."""
        return [future for future in self._waiting.pop(key) if not future.done()]

    async def _call(self, key: str, request: Request) -> Completion:
        if self.stopped is not None:
            raise self.stopped
        self.in_flight += 1
        try:
            completion = await self._model.complete(request)
            if self._spending is not None:  # whether it can be kept or not
                self._spending.add(request, completion)
            self._journal.put(key, completion)
        except CaiError as error:
            if isinstance(error, ProviderError):
                self.tally.failed[error.kind] += 1
            if not isinstance(error, ProviderError) or error.fatal:
                self.stopped = self.stopped or error
            raise
        finally:
            self.in_flight -= 1
        self.tally.add(completion, made=True)
        self.on_call()
        return completion

    def _key(self, request: Request) -> str:
        try:
            return key_of(request, self._identity)
        except ProviderError:
            self.tally.failed["bad_request"] += 1
            raise


def key_of(request: Request, identity: str) -> str:
    """The journal key of a request. Raises ProviderError for text that no endpoint can be sent."""
    try:
        return request.key(identity)
    except TypeError as error:  # orjson's word for a lone surrogate
        raise ProviderError("bad_request", f"the request cannot be written as UTF-8: {error}") from error


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all coroutines, run at once; as asyncio.gather has it, but the first needs no task of its own.

    A failure is raised when those before it have ended. The others go on, for their calls are worth keeping; where
    this is cancelled they are too.
    """
    others = [asyncio.create_task(one) for one in work[1:]]
    try:
        return [await work[0], *[await one for one in others]]
    except BaseException as error:
        rest = asyncio.gather(*others, return_exceptions=True)
        if isinstance(error, asyncio.CancelledError):
            for one in others:
                one.cancel()
            await rest
        raise


async def ask_parsed(
    ask: Ask, request: Request, parse: Callable[[str], T], attempts: int = ATTEMPTS
) -> tuple[T, tuple[str, ...]]:
    """Ask until `parse` takes the reply; return what it made of it and the keys of all calls, in order.

    A reply that does not parse, or was cut off, is asked again under the next attempt number and another
    seed, `attempts` times in all; then the last ParseError is raised. A refusal raises Refused at once.
    """
    calls: list[str] = []
    problem = ParseError("not asked")
    for attempt in range(attempts):
        completion, call = await ask(asked_again(request, attempt))
        calls.append(call)
        if completion.finish_reason in ("refusal", "content_filter"):
            raise Refused(f"the model declined ({completion.finish_reason}, call {call})")
        if completion.finish_reason == "length" and not request.choices:
            problem = ParseError(f"the reply was cut off at {request.max_tokens} tokens (call {call})")
            continue
        try:
            return parse(completion.text), tuple(calls)
        except ParseError as error:
            problem = error
    raise problem


def retry_seed(seed: int, attempt: int) -> int:
    """The seed with which a request is asked again, of its first seed; `attempt` from 1."""
    return derive_seed(seed, "", "attempt", attempt)


def asked_again(request: Request, attempt: int) -> Request:
    """The request for the attempt of this number; the first, 0, is the request itself."""
    if attempt == 0:
        return request
    seed = None if request.seed is None else retry_seed(request.seed, attempt)
    return request.model_copy(update={"attempt": request.attempt + attempt, "seed": seed})
