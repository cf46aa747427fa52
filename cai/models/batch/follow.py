"""One batch from its submission to its end: submitted once, found again, waited for.

`follow` is all of it; `cai.models.batch.deliver` reads the results. A failure of the batch as a whole is raised, in
one line that says how to go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from cai.errors import BatchError, ProviderError
from cai.models.batch.deliver import Desk, Job, deliver
from cai.models.batch.ledger import Batch
from cai.models.batch.provider import Entry, Status
from cai.models.failures import AttemptFailed

POLL_FIRST_S, POLL_CAP_S = 2.0, 60.0
POLL_SHARE = 0.1  # of the time waited so far, until the next look
OUTAGE_S = 3600.0  # how long a provider may be out of reach before the run gives up waiting
SETTLE_S = 60.0  # how long after the intent a submission that was cut off may still turn up
GATHER_S = 1.0  # without another request for a batch that has ended, before its results are read


async def follow(desk: Desk, job: Job, entries: Sequence[Entry]) -> None:
    """See a batch through to its results. Raises BatchError, fatal ProviderError.

    `entries`: its requests, to be submitted; none for a batch of an earlier run.
    """
    batch = job.batch
    try:
        if batch.id is None:
            ids = await (_submit(desk, batch, entries) if entries else _find(desk, batch))
        else:
            ids = [batch.id]
        for id_ in ids:
            await _ended(desk, job, id_)
            if await deliver(desk, job, id_):
                return
        desk.ledger.ended(batch, "lost")
        lost = [job.waiting.pop(key) for key in list(job.waiting)]
        for waiting in lost:
            waiting.failed("transient")
        desk.again(lost)
    except ProviderError as error:
        if error.fatal and error.kind != "not_found":
            raise
        raise BatchError(_stuck(desk, job, error)) from error


async def _submit(desk: Desk, batch: Batch, entries: Sequence[Entry]) -> list[str]:
    """Submit the batch; returns its id, or those that it may have where the answer to a submission was lost."""
    provider = desk.provider
    prepared = await provider.call(lambda: provider.prepare(batch, entries))
    unsure, sent = False, 0.0

    async def once() -> list[str]:
        nonlocal unsure, sent
        if unsure and (found := await _look(desk, batch, sent)):
            return found
        before, unsure, sent = unsure, True, time.time()
        try:
            created = await provider.create(batch, prepared)
        except AttemptFailed as failure:
            unsure = before or failure.why == "transient"  # any other answer says that it was not accepted
            raise
        desk.ledger.accepted(batch, created)
        return [created]

    ids = await provider.call(once)
    if batch.id is not None:
        desk.say(f"{desk.name}: batch {batch.id} submitted to {provider.label}: {batch.size:,} requests")
    return ids


async def _find(desk: Desk, batch: Batch) -> list[str]:
    """Ids that a batch may have of which only the intent is known."""
    desk.say(
        f"{desk.name}: looking for a batch of {batch.size:,} requests that may have been submitted before"
    )
    return await desk.provider.call(lambda: _look(desk, batch, batch.made))


async def _look(desk: Desk, batch: Batch, sent: float) -> list[str]:
    """Look for a batch that was sent at that time; what is not there yet may still turn up for a while."""
    while True:
        found = [id_ for id_ in await desk.provider.find(batch) if id_ not in desk.ledger.ids]
        if found and desk.provider.marks_batches:
            desk.ledger.accepted(batch, found[0])
        left = sent + SETTLE_S - time.time()
        if found or left <= 0:
            return found
        await asyncio.sleep(min(left, POLL_FIRST_S))


async def _ended(desk: Desk, job: Job, id_: str) -> None:
    """Wait for the end of the batch; an outage of the provider is waited out."""
    loop = asyncio.get_running_loop()
    started = heard = loop.time()
    while True:
        try:
            status = await desk.provider.call(lambda: desk.provider.status(id_))
        except ProviderError as error:
            if error.kind in ("auth", "not_found") or loop.time() - heard > OUTAGE_S:
                raise
            desk.say(f"{desk.name}: batch {id_}: {error}")
        else:
            heard = loop.time()
            if status.failure is not None:
                desk.ledger.ended(job.batch, "failed")
                raise BatchError(
                    f"models.{desk.name}: {desk.provider.label} refused batch {id_} as a whole: "
                    f"{' '.join(status.failure.split())}; its requests go into a new batch when the same command "
                    "is run again"
                )
            _tell(desk, job, id_, status)
            if status.ended:
                break
        await asyncio.sleep(min(max(POLL_FIRST_S, POLL_SHARE * (loop.time() - started)), POLL_CAP_S))
    while len(job.waiting) < job.batch.size:  # a run that was resumed asks one row after the other
        seen = len(job.waiting)
        await asyncio.sleep(GATHER_S)
        if len(job.waiting) == seen:
            break


def _tell(desk: Desk, job: Job, id_: str, status: Status) -> None:
    """Say how far the batch is, where that has changed."""
    state = f"waiting for batch {id_}: {status.done:,} of {job.batch.size:,}"
    if state != job.state:
        job.state = state
        desk.say(f"{desk.name}: {state}")


def _stuck(desk: Desk, job: Job, error: ProviderError) -> str:
    """What a failed call about a batch means, and what to do."""
    batch, ledger = job.batch, desk.ledger.path
    if batch.id is None:
        what = f"a batch of {batch.size:,} requests"
        return (
            f"models.{desk.name}: {what}: {error}; run the same command again to go on, nothing is paid twice"
        )
    if error.kind == "not_found":
        return (
            f"models.{desk.name}: batch {batch.id} of {ledger} is not known there: {error}; use the key that it was "
            "submitted with, or, if it is gone for good, move the file away, and its requests are paid again"
        )
    return (
        f"models.{desk.name}: batch {batch.id} goes on without this run: {error}; run the same command again to "
        "collect its results, nothing is paid twice"
    )
