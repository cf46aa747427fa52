"""A journal without what nothing needs any more: damaged lines, doubled ones, replies that no present stage asks for.

Which replies a finished shard asks for is found by working through it once more from its journal alone, with the very
steps and keys of the run; so what is kept is what running it again would read. A shard that is not finished with the
stored config and the present files keeps every reply. The new file takes the old one's place in one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from cai.config import RunConfig
from cai.errors import CaiError, ProviderError
from cai.journal import Journal
from cai.models import open_model
from cai.models.base import Request
from cai.pipeline import Job, is_done, job_of, role_of
from cai.preflight import NOWHERE
from cai.rounds import sampled_model
from cai.rows import Row
from cai.runfolder.hold import hold_folder
from cai.serving import with_policy
from cai.shard.calls import Ask, Asked, key_of
from cai.shard.results import results_of
from cai.store import RowsWriter, remove_leftovers
from cai.store.lock import held


class Compacted(Row):
    """What became of the journal of one shard. Sizes in bytes; `kept`, `dropped`: replies; `damaged`: lines.

    `whole`: the shard is not finished, so no reply was dropped.
    """

    stage: str
    shard: int
    before: int
    after: int
    kept: int
    dropped: int
    damaged: int
    whole: bool


async def compact_run(config: RunConfig, dry_run: bool = False) -> list[Compacted]:
    """Compact all journals of a run; `dry_run`: only say what would become of them.

    Raises StoreError where the run is in use, or a file cannot be read or written: then the old one stays.
    """
    with hold_folder(config.root):
        paths = sorted((config.root / "journal").glob("*/*.jsonl"))
        return [await _compact(config, path, dry_run) for path in paths]


async def _compact(config: RunConfig, path: Path, dry_run: bool) -> Compacted:
    stage, shard = path.parent.name, int(path.stem)
    with (
        held(path.with_suffix(".lock"), f"{path}: this shard"),
        Journal(path, read_only=True) as journal,
    ):
        before, held_replies = path.stat().st_size, len(journal)
        finished = await _replay(config, stage, shard, journal)
        remove_leftovers(path)
        writer = RowsWriter(path)
        after = 0
        try:
            for line in journal.lines(unused=not finished):
                writer.write_line(line)
                after += len(line) + 1
            if after < before and not dry_run:
                writer.publish()
        finally:
            writer.discard()
        return Compacted(
            stage=stage,
            shard=shard,
            before=before,
            after=after,
            kept=writer.rows,
            dropped=held_replies - writer.rows,
            damaged=journal.corrupt_lines,
            whole=not finished,
        )


async def _replay(config: RunConfig, stage: str, shard: int, journal: Journal) -> bool:
    """Look up all replies that a finished shard asks for; False where it is not finished, or no stage of the config."""
    for variant in _variants(config, stage):
        try:
            role = role_of(variant, stage)
            client = open_model(role, variant.models[role], endpoint=variant.models[role].endpoint or NOWHERE)
        except KeyError:
            continue
        try:
            job = job_of(variant, stage, shard, client.identity)
            if is_done(variant, job):
                await _work_through(job, client.identity, journal)
                return True
        except (CaiError, KeyError):  # of a stage that the config has no more, or whose inputs are gone
            continue
        finally:
            await client.close()
    return False


async def _work_through(job: Job, identity: str, journal: Journal) -> None:
    ask = _asking(journal, identity)
    for row in job.rows:
        others = asyncio.all_tasks()
        await results_of(job.stage, job.step, row, ask)
        beside = asyncio.all_tasks() - others
        if beside:  # calls that stand beside one that failed: the run has made them too
            await asyncio.gather(*beside, return_exceptions=True)


def _asking(journal: Journal, identity: str) -> Ask:
    async def ask(request: Request) -> Asked:
        key = key_of(request, identity)
        stored = journal.get(key)
        if stored is None:
            raise ProviderError("not_asked", "the journal holds no reply")
        return Asked(stored, key)

    return ask


def _variants(config: RunConfig, stage: str) -> Iterator[RunConfig]:
    """The config as the stage may have seen it: with its own policy, or with a trained model."""
    yield config
    name = stage.removeprefix("evaluate-") if stage.startswith("evaluate-") else sampled_model(stage)
    if name is not None and name in config.policies:
        yield with_policy(config, name, config.root / "models" / name)
