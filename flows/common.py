"""What every flow shares: stages run over shards, each as a task.

A task is one stage over one shard: names and numbers in, a report out; never rows, clients or secrets.
Retries and result caching stay off: the backend has the one retry policy, our manifests know what is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from prefect.cache_policies import NO_CACHE

from cai.config import RunConfig
from cai.judges import qualified_judge
from cai.pipeline import is_done, job_of, role_of, run_job, shards_of
from cai.qualification import gate
from cai.report.status import shard_reports, summed
from cai.serving import Endpoints, board, opened, serving
from cai.shard import ShardReport
from flows.artifacts import publish_stage

TASK: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}
ACTIVE_SHARDS = (
    4  # enough that one shard's last calls never leave the engine idle, few enough to bound memory
)

ShardTask = Callable[[RunConfig, str, int, Endpoints], Awaitable[ShardReport]]


async def run_shard_stage(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """The body of every stage task."""
    async with opened(config, role_of(config, stage), endpoints) as model:
        update = board.stage(stage, expected_rows(config, stage))
        job = job_of(config, stage, shard, model.identity)
        return await run_job(config, job, model, lambda progress: update(shard, progress))


def expected_rows(config: RunConfig, stage: str) -> int | None:
    """How many rows a stage will read, for its progress bar; None where only reading them tells (judging)."""
    origin = {"generate": "prompts", "revise": "prompts", "sft-generate": "prompts"}.get(stage)
    if stage.startswith("evaluate-"):
        origin = "held-out"
    elif stage.startswith("grade-"):
        origin = stage.replace("grade-", "evaluate-")
    return summed(shard_reports(config.root, origin))["rows_out"] if origin else None


async def run_stages(config: RunConfig, tasks: Mapping[str, ShardTask]) -> None:
    """Run stages, in order, over all shards, and publish an artifact for each.

    A shard goes on to its next stage without waiting for the others, within the stages that one managed
    server can answer; then the next model is served. Stages that are done start no server.
    """
    for group in _groups(config, list(tasks)):
        if await _all_done(config, group):
            for stage in group:
                gate(config, stage)
                await publish_stage(config, stage)
            continue
        async with serving(config, [role_of(config, stage) for stage in group]) as endpoints:
            await _run_group(config, {stage: tasks[stage] for stage in group}, endpoints)


async def _run_group(config: RunConfig, tasks: Mapping[str, ShardTask], endpoints: Endpoints) -> None:
    slots = asyncio.Semaphore(ACTIVE_SHARDS)

    first = [
        stage for stage in tasks if qualified_judge(stage)
    ]  # may refuse its judge: nothing starts before
    chained = {stage: task for stage, task in tasks.items() if stage not in first}

    async def chain(shard: int) -> None:
        async with slots:
            for stage, task in chained.items():
                if shard < shards_of(config, stage):
                    await task(config, stage, shard, endpoints)

    with board:
        for stage in first:
            await tasks[stage](config, stage, 0, endpoints)
        await all_of(
            [chain(shard) for shard in range(max((shards_of(config, stage) for stage in chained), default=0))]
        )
    for stage in tasks:
        await publish_stage(config, stage)


def _groups(config: RunConfig, stages: Sequence[str]) -> list[list[str]]:
    """Consecutive stages that can overlap: at most one managed server among their models."""
    groups: list[list[str]] = []
    served: set[str] = set()
    for stage in stages:
        name = role_of(config, stage)
        managed = {name} if config.models[name].managed else set()
        if groups and len(served | managed) <= 1:
            groups[-1].append(stage)
            served |= managed
        else:
            groups.append([stage])
            served = managed
    return groups


async def _all_done(config: RunConfig, stages: Sequence[str]) -> bool:
    nowhere = dict.fromkeys(config.models, "http://127.0.0.1:9/v1")  # for the identity; nothing is asked
    for stage in stages:
        async with opened(config, role_of(config, stage), nowhere) as model:
            if not all(
                is_done(config, job_of(config, stage, s, model.identity))
                for s in range(shards_of(config, stage))
            ):
                return False
    return True


async def all_of(work: Sequence[Awaitable[None]]) -> None:
    """Await everything; the first failure cancels the rest and is raised as it is, not as a group."""

    async def wait(item: Awaitable[None]) -> None:
        await item

    try:
        async with asyncio.TaskGroup() as group:
            for item in work:
                group.create_task(wait(item))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
