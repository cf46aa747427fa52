"""Stages over shards: which may overlap, which wait for another model, and what runs next to what."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from functools import partial

from cai.conduct.work import Work
from cai.config import RunConfig
from cai.errors import BudgetError
from cai.judges.qualification import gate
from cai.judges.stages import qualified_judge
from cai.pipeline import is_done, job_of, role_of, shards_of
from cai.preflight import NOWHERE
from cai.report.status import shard_reports
from cai.serving import Endpoints, board, engine_of, opened, outliving_engines, serving
from cai.target import in_flight

# Shards in work: at least so many that one's last calls never leave the engine idle, and small ones until they
# hold so many prompts for each concurrent call; no more, for memory.
ACTIVE_SHARDS = 4
PROMPTS_PER_SLOT = 16


async def run_stages(
    config: RunConfig,
    stages: Sequence[str],
    work: Work,
    shards: Sequence[int] | None = None,
    endpoints: Endpoints | None = None,
) -> None:
    """Run stages, in order, over these shards (None: all), and show each when it is through.

    A shard goes on to its next stage without waiting for the others, within the stages that one managed
    server can answer; then the next model is served. Stages that are done start no server. `endpoints`: of
    models that whoever calls serves already.
    """
    chosen = range(config.shards) if shards is None else shards
    for group in groups(config, stages):
        if await all_done(config, group, chosen):
            for stage in group:
                gate(config, stage)
        elif endpoints is None:
            await outliving_engines(partial(_serve_group, config, group, chosen, work))
        else:
            await _run_group(config, group, chosen, work, endpoints)
        for stage in group:
            await work.show(config, stage)


async def _serve_group(config: RunConfig, group: Sequence[str], shards: Sequence[int], work: Work) -> None:
    async with serving(config, [role_of(config, stage) for stage in group]) as endpoints:
        await _run_group(config, group, shards, work, endpoints)


async def _run_group(
    config: RunConfig, group: Sequence[str], shards: Sequence[int], work: Work, endpoints: Endpoints
) -> None:
    slots = asyncio.Semaphore(work.slots or _side_by_side(config, group, len(shards)))
    first = [
        stage for stage in group if qualified_judge(stage)
    ]  # may refuse its judge: nothing starts before
    chained = [stage for stage in group if stage not in first]

    used_up = False

    async def chain(shard: int) -> None:
        nonlocal used_up
        async with slots:
            try:
                for stage in chained:
                    if shard < shards_of(config, stage) and not used_up:
                        await work.stage(config, stage, shard, endpoints)
            except BudgetError:
                used_up = True
                raise

    with board:
        for stage in first:
            await work.stage(config, stage, 0, endpoints)
        await all_of([chain(shard) for shard in shards])


def _side_by_side(config: RunConfig, group: Sequence[str], shards: int) -> int:
    """How many shards are in work at a time: all where a batch takes their calls, more where they are small."""
    models = [config.models[role_of(config, stage)] for stage in group]
    if any(model.mode == "batch" for model in models):
        return shards
    if config.pairs.target is not None:
        return ACTIVE_SHARDS + in_flight(config)
    wanted = PROMPTS_PER_SLOT * max(model.max_concurrency for model in models)
    prompts = sum(report.rows_out for report in shard_reports(config.root, "prompts"))
    return max(ACTIVE_SHARDS, math.ceil(wanted * config.shards / max(prompts, 1)))


def groups(config: RunConfig, stages: Sequence[str]) -> list[list[str]]:
    """Consecutive stages that can overlap: at most one engine of ours among their models."""
    found: list[list[str]] = []
    served: set[str] = set()
    for stage in stages:
        engine = engine_of(config, role_of(config, stage))
        managed = {engine} if engine else set()
        if found and len(served | managed) <= 1:
            found[-1].append(stage)
            served |= managed
        else:
            found.append([stage])
            served = managed
    return found


async def all_done(config: RunConfig, stages: Sequence[str], shards: Sequence[int]) -> bool:
    """True where running these stages over these shards would change nothing."""
    nowhere = dict.fromkeys(config.models, NOWHERE)  # for the identity; nothing is asked
    for stage in stages:
        async with opened(config, role_of(config, stage), nowhere) as model:
            for shard in shards:
                if shard < shards_of(config, stage) and not is_done(
                    config, job_of(config, stage, shard, model.identity)
                ):
                    return False
    return True


async def all_of(work: Sequence[Awaitable[None]]) -> None:
    """Await everything; the first failure cancels the rest and is raised as it is, not as a group.

    A budget that is used up cancels nothing: what is in flight is paid for, and nobody can begin anything new.
    """
    used_up: BudgetError | None = None

    async def wait(item: Awaitable[None]) -> None:
        nonlocal used_up
        try:
            await item
        except BudgetError as error:
            used_up = used_up or error

    try:
        async with asyncio.TaskGroup() as group:
            for item in work:
                group.create_task(wait(item))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    if used_up is not None:
        raise used_up
