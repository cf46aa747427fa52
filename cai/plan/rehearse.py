"""A stage over one shard without its model: what the journal answers, and what would have to be asked.

The very job of a run is worked through, with the very steps and keys, but a request that the journal holds no
reply to is counted instead of asked, and its row goes no further. So a rehearsal knows about edits what a run
knows, and nothing can be predicted that a run would not do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai.config import RunConfig
from cai.constitution import load_constitution
from cai.errors import ProviderError
from cai.journal import Journal
from cai.models.base import Request
from cai.pipeline import Job
from cai.plan.calls import ByKind, calls_as_before, calls_of_row
from cai.plan.rates import PerCall, Rates
from cai.plan.recall import StandIn, said_before, stand_in
from cai.plan.rows import Calls
from cai.publish import ShardWriter
from cai.rows import Comparison, Revision, Row
from cai.shard import finished, shard_paths
from cai.shard.calls import Ask, Asked, key_of
from cai.shard.results import results_of


@dataclass
class Tally:
    """What the shards of a stage add up to. `held_tokens`: of prompts and completions.

    `tentative`: revisions as they were before, of rows that are asked again, and whether they change the reply.
    """

    rows: int = 0
    held: int = 0
    asked: list[str] = field(default_factory=list)
    held_tokens: list[int] = field(default_factory=lambda: [0, 0])
    calls: dict[str, Calls] = field(default_factory=dict)
    tentative: dict[str, bool] = field(default_factory=dict)

    def add(self, asked: str | None, calls: ByKind, results: Sequence[Row]) -> None:
        """Count the calls of a row. `asked`: its id, where it has a call to make; `results`: what came of it."""
        self.asked += [asked] if asked else []
        self.tentative |= {row.id: row.changed for row in results if isinstance(row, Revision)}
        for kind, more in calls.items():
            self.calls[kind] = self.calls.get(kind, Calls()) + more

    def tokens(self) -> PerCall | None:
        """Mean tokens of the calls held; None where there are none."""
        return PerCall(*(total / self.held for total in self.held_tokens)) if self.held else None


async def rehearse(
    config: RunConfig,
    root: Path,
    job: Job,
    identity: str,
    rates: Rates,
    tally: Tally,
    skip: Collection[str] = (),
    tentative: Collection[str] = (),
) -> None:
    """Work through `job` of the scratch config, with the journal of the run at `root`; counts go to `tally`.

    A shard that the run has finished with the same inputs is taken over as it is. Rows in `skip` are passed over.
    `tentative`: ids of revisions that are only as they were before.
    """
    real, scratch = (shard_paths(folder, job.stage, job.shard) for folder in (root, config.root))
    if (report := finished(real, job.inputs_digest)) is not None:
        scratch.manifest.parent.mkdir(parents=True, exist_ok=True)
        for source, target in zip(real[:3], scratch[:3], strict=True):
            target.symlink_to(source.resolve())
        tally.rows += report.rows_in
        tally.held += report.calls_replayed
        tally.held_tokens[0] += report.prompt_tokens
        tally.held_tokens[1] += report.completion_tokens
        return
    before = said_before(root, job.shard) if job.stage == "revise" else {}
    constitution = load_constitution(config.constitution)
    with (
        Journal(real.journal, read_only=True) as journal,
        ShardWriter(config.root, job.stage, job.shard) as writer,
    ):

        async def work(row: Any, answer: StandIn) -> tuple[Sequence[Row], list[Request]]:
            missing: list[Request] = []
            results = await results_of(
                job.stage, job.step, row, _asking(journal, identity, missing, tally, answer)
            )
            await _settle()
            return results, missing

        for row in job.rows:
            if row.id in skip:
                continue
            tally.rows += 1
            results, missing = await work(row, lambda _: None)
            unsure = isinstance(row, Comparison) and row.b.id in tentative
            if missing or unsure:
                calls = calls_of_row(config, job.stage, row, missing, rates, tentative=unsure)
                if missing and (said := before.get(row.id)):
                    again, more = await work(row, stand_in(config, constitution, journal, row, said))
                    if isinstance(again[0], Revision):
                        results, calls = again, calls_as_before(config, row.id, more, calls)
                tally.add(row.id if missing else None, calls, results)
            for result in results:
                writer.add(result)
        writer.publish(job.inputs_digest)


def _asking(journal: Journal, identity: str, missing: list[Request], tally: Tally, answer: StandIn) -> Ask:
    """A way to ask that knows only the journal, and `answer` for what is missing there."""

    async def ask(request: Request) -> Asked:
        key = key_of(request, identity)
        first = not journal.used(key)
        stored = journal.get(key)
        if stored is None:
            missing.append(request)
            if (found := answer(request)) is None:
                raise ProviderError("not_asked", "the journal holds no reply")
            return Asked(found, key)
        if first:
            tally.held += 1
            tally.held_tokens[0] += stored.usage.prompt_tokens
            tally.held_tokens[1] += stored.usage.completion_tokens
        return Asked(stored, key)

    return ask


async def _settle() -> None:
    """Let the calls run that stand beside one that is missing: a run would have made them too."""
    beside = asyncio.all_tasks() - {asyncio.current_task()}
    if beside:
        await asyncio.gather(*beside, return_exceptions=True)
