"""The results of a batch, read as a stream and handed to those who wait, by request and in whatever order they come.

A reply goes to whoever asked; a failure that may pass goes into a later batch, at most TRIES batches in all; any
other is the ProviderError that the live model would have raised. Requests that join while the results are being read
are found by reading them once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cai.errors import ProviderError, ProviderErrorKind
from cai.models.base import Attempts, Completion, Request
from cai.models.batch.ledger import Batch, Ledger
from cai.models.batch.provider import Provider, Result
from cai.models.failures import PASSING, AttemptFailed

TRIES = 4
YIELD_EVERY = 100  # results, so that those who wait can go on while more are read
DETAIL_CHARS = 300
NEVER_RAN = AttemptFailed("transient", "the batch expired, or was cancelled, before its turn came")
Say = Callable[[str], None]


@dataclass(eq=False)
class Waiting:
    """A request in or on its way to a batch, and who waits for it.

    `size`: bytes. `tries`: batches that it failed in. `waiters`: how many wait; `told`: who counts its attempts.
    """

    key: str
    request: Request
    size: int
    answer: asyncio.Future[Completion]
    tries: int = 0
    waiters: int = 0
    told: list[Attempts] = field(default_factory=list)

    def sent(self) -> None:
        """Count that the request goes into a batch; what it may use is held. Raises BudgetError."""
        for number, told in enumerate(self.told):
            if number:
                told.joins(self.request)
            else:
                told.begins(hold=self.request)

    def failed(self, why: str) -> None:
        """Count that the batch had no reply to it."""
        for told in self.told:
            told.failed(why)

    def done(self, completion: Completion) -> None:
        """Hand over the reply."""
        if not self.answer.done():
            self.answer.set_result(completion)

    def fail(self, error: BaseException) -> None:
        """Hand over a failure; nobody need be there to take it."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()


@dataclass(eq=False)
class Job:
    """A batch that is being followed. `waiting`: for what is still to come of it; `state`: what was last said of it.

    `reading`: its results are coming in, and with each the next call of a row.
    """

    batch: Batch
    waiting: dict[str, Waiting] = field(default_factory=dict)
    state: str = ""
    reading: bool = False


@dataclass(frozen=True)
class Desk:
    """What all batches of one model share. `secret`: must not be said; `again`: takes requests for a later batch."""

    name: str
    provider: Provider
    ledger: Ledger
    secret: str
    say: Say
    again: Callable[[Sequence[Waiting]], None]


async def deliver(desk: Desk, job: Job, id_: str) -> bool:
    """Read the results of an ended batch; False where they show that it is not this one. Raises ProviderError."""
    batch = job.batch
    keys = frozenset[str]() if batch.id else desk.ledger.keys_of(batch)
    again: list[Waiting] = []
    job.reading = True
    while True:
        left = dict(job.waiting)
        if not await _read(desk, job, id_, left, keys, again):
            job.reading = False
            return False
        for key in left:
            if waiting := job.waiting.pop(key, None):
                again += _later(desk, waiting, NEVER_RAN)
        if not job.waiting:
            break
    job.reading = False
    if batch.id is None:
        desk.ledger.accepted(batch, id_)
    if not batch.read:
        desk.ledger.ended(batch, "read")
    desk.again(again)
    return True


async def _read(
    desk: Desk, job: Job, id_: str, left: dict[str, Waiting], keys: frozenset[str], again: list[Waiting]
) -> bool:
    """Read the results once, taking the requests that have one out of `left`; False where none is of `keys`."""

    async def once() -> bool:
        read = 0
        async for result in desk.provider.results(id_):
            if job.batch.id is None and not read and result.key not in keys:
                return False
            read += 1
            if left.pop(result.key, None) and (waiting := job.waiting.pop(result.key, None)):
                again.extend(await _settle(desk, waiting, result))
            if read % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return True

    return await desk.provider.call(once)


async def _settle(desk: Desk, waiting: Waiting, result: Result) -> list[Waiting]:
    """Hand a result to those who wait for it; returns the request where it has to be asked again."""
    failure = result.failure or NEVER_RAN
    if result.reply is not None:
        try:
            waiting.done(desk.provider.read(result.reply, waiting.request))
            return []
        except AttemptFailed as error:
            failure = error
    if failure.why in PASSING:
        return _later(desk, waiting, failure)

    waiting.failed(failure.why)

    async def fail() -> None:
        raise failure

    try:
        await desk.provider.call(fail)  # in the words of the live model
    except ProviderError as error:
        waiting.fail(error)
    return []


def _later(desk: Desk, waiting: Waiting, failure: AttemptFailed) -> list[Waiting]:
    """The request, for a later batch; none where it has been in enough of them."""
    waiting.failed(failure.why)
    waiting.tries += 1
    if waiting.tries < TRIES:
        return [waiting]
    detail = " ".join(str(failure).split())
    detail = detail.replace(desk.secret, "***") if desk.secret else detail
    kind: ProviderErrorKind = "malformed" if failure.why == "malformed" else "retries_exhausted"
    waiting.fail(
        ProviderError(
            kind,
            f"models.{desk.name}: {detail[:DETAIL_CHARS]}; tried in {TRIES} batches; run again to try once more",
        )
    )
    return []
