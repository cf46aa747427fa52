"""A chat model whose calls are collected into batches: ask as of any other, and wait as long as it takes.

A batch is closed when all requests that may be in flight are there, when the provider takes no more in one, or when
nothing new has come for a while: two seconds, doubled for each batch that is open already, so that a trickle of
requests makes few batches and not many of one request. Each batch is then followed by a task of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from cai.errors import BudgetError, CaiError, ConfigError, ProviderError
from cai.models.base import Attempts, Completion, Request, attempts
from cai.models.batch.deliver import Desk, Job, Say, Waiting
from cai.models.batch.follow import follow
from cai.models.batch.ledger import Batch, Ledger
from cai.models.batch.provider import Entry, Provider

LINGER_S, LINGER_CAP_S = 2.0, 600.0


class BatchModel:
    """A model behind a batch API. `ledger`: the file of its batches, opened and locked by the first request; None
    for a model that is asked nothing.

    `limit`: requests in flight at most, over all open batches; those who call keep to it.
    """

    def __init__(
        self, name: str, provider: Provider, ledger: Path | None, *, limit: int, secret: str, say: Say
    ) -> None:
        self._name, self._provider, self._path = name, provider, ledger
        self._limit, self._secret, self._say = limit, secret, say
        self._opened: Desk | None = None
        self._waiting: dict[str, Waiting] = {}
        self._queue: dict[str, Waiting] = {}
        self._bytes = 0
        self._first = self._last = 0.0
        self._timer: asyncio.Task[None] | None = None
        self._jobs: dict[Batch, tuple[Job, asyncio.Task[None]]] = {}

    @property
    def identity(self) -> str:
        """The live model's, so that replies count as the same whichever way they were asked for."""
        return self._provider.identity

    async def complete(self, request: Request) -> Completion:
        """Answer one request, within a day or so. Raises ProviderError, BatchError, StoreError; ConfigError."""
        self._provider.check(request)
        key = request.key(self.identity)
        told, waiting = attempts.get(), self._waiting.get(key)
        if waiting is None:
            waiting = self._enter(key, request, told)
        elif told is not None:
            waiting.told.append(told)
            if key not in self._queue:
                told.joins(waiting.request)
        waiting.waiters += 1
        try:
            return await asyncio.shield(waiting.answer)
        finally:
            waiting.waiters -= 1
            if not waiting.waiters:
                self._leave(waiting)

    async def probe(self) -> None:
        """A free call to the provider. Raises ProviderError: unreachable, auth or not_found."""
        await self._provider.probe()

    async def close(self) -> None:
        """Stop waiting. Batches that are open stay so at the provider, and are said, with how to go on."""
        tasks = [task for _, task in self._jobs.values()] + ([self._timer] if self._timer else [])
        for job, _ in list(self._jobs.values()):
            if job.batch.id is not None:
                self._say(
                    f"{self._name}: batch {job.batch.id} goes on at {self._provider.label}; run the same command "
                    "again to collect its results"
                )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._opened is not None:
            self._opened.ledger.close()
            self._opened = None
        await self._provider.close()

    @property
    def _desk(self) -> Desk:
        if self._opened is None:
            if self._path is None:
                raise ConfigError(
                    f"models.{self._name}: mode batch needs a run, in whose folder it notes its batches; set mode: live"
                )
            ledger = Ledger(self._path)
            self._opened = Desk(self._name, self._provider, ledger, self._secret, self._say, self._collect)
        return self._opened

    @property
    def _reading(self) -> bool:
        """True while results come in: what their rows ask next belongs into one batch."""
        return any(job.reading for job, _ in self._jobs.values())

    def _enter(self, key: str, request: Request, told: Attempts | None) -> Waiting:
        """Take in a request: it joins the batch that has it already, or waits for the next one."""
        batch = self._desk.ledger.batch_of(key)
        size = len(self._provider.line(Entry(key, request))) + 1
        waiting = Waiting(key, request, size, asyncio.get_running_loop().create_future())
        waiting.told += [told] if told is not None else []
        self._waiting[key] = waiting
        if batch is None:
            self._collect([waiting])
        else:
            self._join(batch, waiting)
        return waiting

    def _leave(self, waiting: Waiting) -> None:
        """Nobody waits for a request any more: it is answered, or was given up before it was submitted."""
        for told in waiting.told:
            told.ends(waiting.request)
        del self._waiting[waiting.key]
        if self._queue.pop(waiting.key, None):
            self._bytes -= waiting.size
        for job, _ in self._jobs.values():
            job.waiting.pop(waiting.key, None)

    def _collect(self, requests: Sequence[Waiting]) -> None:
        """Put requests into the next batch, and close it where it is full."""
        self._last = asyncio.get_running_loop().time()
        for waiting in requests:
            if self._waiting.get(waiting.key) is not waiting:
                continue  # nobody waits for it any more
            if len(self._queue) == self._provider.most or (
                self._queue and self._bytes + waiting.size > self._provider.most_bytes
            ):
                self._send()
            self._first = self._first if self._queue else self._last
            self._queue[waiting.key] = waiting
            self._bytes += waiting.size
        in_flight = len(self._queue) + sum(len(job.waiting) for job, _ in self._jobs.values())
        if in_flight >= self._limit and not self._reading:
            self._send()
        elif self._queue and self._timer is None:
            self._timer = asyncio.create_task(self._linger())

    async def _linger(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            patience = min(LINGER_S * 2 ** min(len(self._jobs), 20), LINGER_CAP_S)
            left = min(self._last + patience, self._first + LINGER_CAP_S) - loop.time()
            if left <= 0 and not self._reading:
                break
            await asyncio.sleep(left if left > 0 else LINGER_S)
        self._timer = None
        self._send()

    def _send(self) -> None:
        """Close the batch, and submit it."""
        queue, self._queue, self._bytes = self._queue, {}, 0
        for waiting in list(queue.values()):
            try:
                waiting.sent()
            except BudgetError as error:
                del queue[waiting.key]
                waiting.fail(_copy(error))
        if not queue:
            return
        entries = [Entry(waiting.key, waiting.request) for waiting in queue.values()]
        digest = hashlib.blake2b(digest_size=16)
        for entry in entries:
            digest.update(self._provider.line(entry) + b"\n")
        try:
            batch = self._desk.ledger.intend(list(queue), digest.hexdigest())
        except CaiError as error:
            for waiting in queue.values():
                waiting.fail(_copy(error))
            return
        self._start(Job(batch, queue), entries)

    def _join(self, batch: Batch, waiting: Waiting) -> None:
        """Wait for a batch that was submitted before."""
        if batch not in self._jobs:
            self._start(Job(batch), ())
        job, _ = self._jobs[batch]
        job.waiting[waiting.key] = waiting
        for told in waiting.told:
            told.joins(waiting.request)

    def _start(self, job: Job, entries: Sequence[Entry]) -> None:
        self._jobs[job.batch] = job, asyncio.create_task(self._follow(job, entries))

    async def _follow(self, job: Job, entries: Sequence[Entry]) -> None:
        try:
            await follow(self._desk, job, entries)
        except Exception as error:
            for waiting in list(job.waiting.values()):
                waiting.fail(_copy(error))
        finally:
            del self._jobs[job.batch]


def _copy(error: Exception) -> Exception:
    """The error for one more of those who wait: raised from many places, one object would gather all their frames."""
    if isinstance(error, ProviderError):
        return ProviderError(error.kind, str(error))
    return type(error)(str(error)) if isinstance(error, CaiError) else error
