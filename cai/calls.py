"""A step's way to its model: a request is answered from the journal, or asked once and journalled first.

Every call is a task of its own. So a row that fails does not take down the calls beside it (they are paid
for, and are kept), and a request that is already in flight is joined instead of asked twice. One semaphore
bounds the calls in flight. A fatal failure stops new calls at once, whatever the steps do with the error.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from cai.errors import CaiError, ParseError, ProviderError, Refused
from cai.journal import Journal
from cai.models.base import ChatModel, Completion, Request, derive_seed

T = TypeVar("T")
ATTEMPTS = 3  # times that a reply which does not parse is asked for, in all


class Asked(NamedTuple):
    """A reply and the journal key of the call behind it."""

    completion: Completion
    call: str


Ask = Callable[[Request], Awaitable[Asked]]


@dataclass
class Tally:
    """What the calls of a shard add up to; each distinct call counts once.

    `cost` (US dollars; None once a call without a known price is counted) covers replayed calls too,
    `cost_made` those of this run. `failed`: calls given up, by ProviderError kind.
    """

    made: int = 0
    replayed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float | None = 0.0
    cost_made: float | None = 0.0
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, completion: Completion, *, made: bool) -> None:
        """Count one distinct call."""
        usage = completion.usage
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        self.cost = _plus(self.cost, completion.cost)
        if made:
            self.made += 1
            self.cost_made = _plus(self.cost_made, completion.cost)
        else:
            self.replayed += 1


def _plus(total: float | None, cost: float | None) -> float | None:
    return None if total is None or cost is None else total + cost


class Calls:
    """Asks `model` through `journal`, at most `limit` calls at a time.

    `on_call` runs after each finished call. `stopped`: why no call may start any more; set by a fatal
    failure, or from outside.
    """

    def __init__(self, model: ChatModel, journal: Journal, limit: int) -> None:
        self.tally = Tally()
        self.stopped: CaiError | None = None
        self.on_call: Callable[[], None] = lambda: None
        self._model = model
        self._identity = model.identity
        self._journal = journal
        self._slots = asyncio.Semaphore(limit)
        self._inflight: dict[str, asyncio.Task[Completion]] = {}

    async def ask(self, request: Request) -> Asked:
        """Answer one request. Raises ProviderError, or StoreError where the reply cannot be kept."""
        if self.stopped is not None:
            raise self.stopped
        key = self._key(request)
        task = self._inflight.get(key)
        if task is None:
            first = not self._journal.used(key)
            stored = self._journal.get(key)
            if stored is not None:
                if first:
                    self.tally.add(stored, made=False)
                return Asked(stored, key)
            task = asyncio.create_task(self._call(key, request))
            self._inflight[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        return Asked(await asyncio.shield(task), key)

    async def drain(self, grace_s: float | None) -> None:
        """Wait for the calls in flight; those left after `grace_s` seconds (None: no limit) are cancelled."""
        try:
            while tasks := list(self._inflight.values()):
                _, late = await asyncio.wait(tasks, timeout=grace_s)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)
        finally:  # cancelled while waiting
            for task in self._inflight.values():
                task.cancel()

    async def _call(self, key: str, request: Request) -> Completion:
        async with self._slots:
            if self.stopped is not None:
                raise self.stopped
            try:
                completion = await self._model.complete(request)
                self._journal.put(key, completion)
            except CaiError as error:
                if isinstance(error, ProviderError):
                    self.tally.failed[error.kind] += 1
                if not isinstance(error, ProviderError) or error.fatal:
                    self.stopped = self.stopped or error
                raise
        self.tally.add(completion, made=True)
        self.on_call()
        return completion

    def _finished(self, key: str, task: asyncio.Task[Completion]) -> None:
        del self._inflight[key]
        if not task.cancelled():
            task.exception()  # seen, also where the row that asked is gone

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
        completion, call = await ask(_attempt(request, attempt))
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


def _attempt(request: Request, attempt: int) -> Request:
    if attempt == 0:
        return request
    seed = None if request.seed is None else retry_seed(request.seed, attempt)
    return request.model_copy(update={"attempt": request.attempt + attempt, "seed": seed})
