"""A stage over one shard: rows in, model calls through the journal, files published whole.

Rows are pulled as they are needed and published in input order whatever order they finish in, so the same
inputs and replies give the same bytes at any concurrency. A row that cannot go on becomes a `Drop` with its
reason; a fatal provider error, a full disk or a bug stops the shard, and running it again asks only for
replies that the journal does not hold. No Prefect in here, and no retries: those belong to the backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Generic

from cai.accounts.budget import Spending
from cai.errors import BudgetError, CaiError, ConfigError, ProviderError, StoreError
from cai.journal import Journal
from cai.models.base import ChatModel
from cai.process import in_thread, rare_collections
from cai.rows import Row
from cai.shard import ShardPaths, ShardReport, finished, shard_paths, write_manifest
from cai.shard.accounting import RowsIn, check_shard
from cai.shard.calls import Ask, Asked, Calls, ask_parsed
from cai.shard.progress import Progress
from cai.shard.results import In, Step, results_of
from cai.store import RowsWriter, remove_leftovers

__all__ = ["Ask", "Asked", "Progress", "ShardReport", "Step", "ask_parsed", "run_shard", "shard_paths"]

GRACE_S = 5.0  # how long a failing shard waits for calls in flight, which are paid for, before it cancels
PROGRESS_INTERVAL_S = 0.2
ROWS_PER_SLOT = 2  # rows in work for each concurrent call, so that no slot waits for its next row
AHEAD_PER_SLOT = 16  # rows pulled, not yet published, for each concurrent call: what a slow row may hold up


async def run_shard(
    *,
    stage: str,
    shard: int,
    root: Path,
    rows: Iterable[In],
    step: Step[In],
    model: ChatModel,
    inputs_digest: str,
    limit: int,
    on_progress: Callable[[Progress], None] | None = None,
    spending: Callable[[], AbstractContextManager[Spending | None]] = contextlib.nullcontext,
) -> ShardReport:
    """Run `step` over `rows`, at most `limit` model calls at a time, and publish what comes out.

    `inputs_digest` names everything that decides the output: rows, model, step and its settings. `spending`: opens
    what counts the calls for the run's budget. Raises ProviderError where the endpoint is unusable, StoreError where
    a file is, BudgetError where a cap is reached; all say how to go on.
    """
    if limit < 1:
        raise ConfigError(f"limit {limit}: allow at least 1 concurrent call")
    paths = shard_paths(root, stage, shard)
    if (report := finished(paths, inputs_digest)) is not None:
        return report
    with (
        Journal(paths.journal) as journal,
        _writers(paths) as (kept, dropped),
        rare_collections(),
        spending() as spends,
    ):
        calls = Calls(model, journal, limit, spends)
        work = _Work(RowsIn(stage, shard), rows, step, calls, kept, dropped, on_progress)
        await work.run(limit)

        def finish() -> ShardReport:
            report = _report(inputs_digest, work, journal.corrupt_lines)
            check_shard(report, journal)
            write_manifest(paths.manifest, report)
            journal.close()
            return report

        return await in_thread(finish)  # the disk takes its time, and other shards have calls to make


class _Work(Generic[In]):
    """The rows of one shard on their way: pulled, worked on, waiting for their turn, written."""

    def __init__(
        self,
        account: RowsIn,
        rows: Iterable[In],
        step: Step[In],
        calls: Calls,
        kept: RowsWriter,
        dropped: RowsWriter,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.account, self.stage, self.step, self.calls = account, account.stage, step, calls
        self.kept, self.dropped = kept, dropped
        self.total = len(rows) if isinstance(rows, Sized) else None
        self.source = iter(rows)
        self.pulled = self.published = 0
        self.started = time.monotonic()
        self._waiting: dict[int, tuple[str, Sequence[Row]]] = {}
        self._moved = asyncio.Event()
        self._on_progress = on_progress
        self._last_progress = 0.0

    async def run(self, limit: int) -> None:
        """Work through all rows. On an error no new call is made, and none is left running."""
        self.calls.on_call = self.report_progress
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._worker(group, ROWS_PER_SLOT * limit - 1, AHEAD_PER_SLOT * limit))
            await self.calls.drain(None)
        except BaseExceptionGroup as errors:
            cause = self.calls.stopped or errors.exceptions[0]
            self.calls.stopped = self.calls.stopped or CaiError(f"{self.stage}: stopped by another row")
            await self.calls.drain(_grace(cause))
            if isinstance(cause, ProviderError | BudgetError):
                raise self._resumable(cause) from cause
            raise cause from cause.__cause__
        except BaseException:  # cancelled, or Ctrl-C
            self.calls.stopped = CaiError(f"{self.stage}: interrupted")
            await self.calls.drain(0)
            raise
        finally:
            self.report_progress(force=True)

    def report_progress(self, force: bool = False) -> None:
        """Tell the listener how far the shard is, at most every PROGRESS_INTERVAL_S unless forced."""
        now = time.monotonic()
        if self._on_progress is None or (now - self._last_progress < PROGRESS_INTERVAL_S and not force):
            return
        self._last_progress = now
        tally = self.calls.tally
        self._on_progress(
            Progress(
                rows_done=self.published,
                rows_total=self.total,
                calls_made=tally.made,
                calls_replayed=tally.replayed,
                prompt_tokens=tally.prompt_tokens,
                completion_tokens=tally.completion_tokens,
                cost=tally.cost,
                generated=tally.generated,
                in_flight=self.calls.in_flight,
                drops=dict(self.account.drops),
            )
        )

    async def _worker(self, group: asyncio.TaskGroup, more: int, ahead: int) -> None:
        """Work on one row after the other; with the first of them the next worker starts, and up to `more` in all."""
        while True:
            while self.pulled - self.published >= ahead:
                await self._moved.wait()
            try:
                row = next(self.source)
            except StopIteration:
                return
            if more:
                group.create_task(self._worker(group, more - 1, ahead))
                more = 0
            index = self.pulled
            self.pulled += 1
            self._waiting[index] = row.id, await self._results(row)
            self._publish()
            self.report_progress()
            await asyncio.sleep(0)  # a shard that only replays would never let other tasks run

    async def _results(self, row: In) -> Sequence[Row]:
        results = await results_of(self.stage, self.step, row, self.calls.ask)
        if self.calls.stopped is not None:  # the step kept a fatal error to itself
            raise self.calls.stopped
        return results

    def _publish(self) -> None:
        """Write every row whose turn has come."""
        before = self.published
        while (done := self._waiting.pop(self.published, None)) is not None:
            for kept, result in self.account.add(*done):
                (self.kept if kept else self.dropped).write(result)
            self.published += 1
        if self.published > before:
            self._moved.set()  # wakes those that wait now …
            self._moved.clear()  # … and makes the next ones wait

    def _resumable(self, error: ProviderError | BudgetError) -> CaiError:
        done = f"{self.published} of {self.total if self.total is not None else 'its'} rows were done"
        if isinstance(error, BudgetError):
            return BudgetError(f"{error}; stage {self.stage} stopped when {done}, and every reply is kept")
        return ProviderError(
            error.kind,
            f"{error}; stage {self.stage} stopped when {done}. Every reply so far is kept: fix this and run "
            "the same command again to go on",
        )


def _grace(cause: BaseException) -> float | None:
    """How many seconds calls in flight get when a shard stops: none where their replies could not be kept."""
    if isinstance(cause, BudgetError):
        return None
    return 0.0 if isinstance(cause, StoreError) else GRACE_S


@contextlib.contextmanager
def _writers(paths: ShardPaths) -> Iterator[tuple[RowsWriter, RowsWriter]]:
    """Writers of the two row files, discarded unless published. The caller holds the shard's lock."""
    with contextlib.ExitStack() as stack:
        writers = []
        for path in (paths.rows, paths.drops):
            remove_leftovers(path)
            writers.append(RowsWriter(path))
            stack.callback(writers[-1].discard)
        yield writers[0], writers[1]


def _report(inputs_digest: str, work: _Work[In], corrupt_lines: int) -> ShardReport:
    """Publish the row files and report on them."""
    tally, account = work.calls.tally, work.account
    return ShardReport(
        stage=work.stage,
        shard=account.shard,
        inputs_digest=inputs_digest,
        rows_in=work.pulled,
        rows_out=work.kept.rows,
        drops=dict(sorted(account.drops.items())),
        calls_made=tally.made,
        calls_replayed=tally.replayed,
        failed_calls=dict(sorted(tally.failed.items())),
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        cached_tokens=tally.cached_tokens,
        defused=tally.defused,
        cost=tally.cost,
        cost_made=tally.cost_made,
        corrupt_lines=corrupt_lines,
        seconds=round(time.monotonic() - work.started, 3),
        skipped=False,
        rows=work.kept.publish(),
        dropped=work.dropped.publish(),
        rows_used=account.used,
        rows_lost=account.lost,
        attempts=tally.attempts,
        failed_attempts=dict(sorted(tally.failed_attempts.items())),
    )
