"""What every flow shares: serving models, running stages over shards, and artifacts.

A task is one stage over one shard: names and numbers in, a report out; never rows, clients or secrets.
Retries and result caching stay off: the backend has the one retry policy, our manifests know what is done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.cache_policies import NO_CACHE
from rich.console import Console

from cai.config import RunConfig
from cai.models import open_model
from cai.models.base import ChatModel, Completion, Request
from cai.models.managed import managed_server
from cai.pipeline import is_done, job_of, role_of, run_job, shards_of
from cai.report.progress import Board
from cai.shard import ShardReport
from flows.artifacts import publish_stage

TASK: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}
ACTIVE_SHARDS = (
    4  # enough that one shard's last calls never leave the engine idle, few enough to bound memory
)

Endpoints = dict[str, str]
ShardTask = Callable[[RunConfig, str, int, Endpoints], Awaitable[ShardReport]]
board = Board(Console(stderr=True))
_gates: dict[tuple[str, int], asyncio.Semaphore] = {}


class _Gated:
    """A model behind the process-wide limit of its config, so that shards share one bound on calls in flight."""

    def __init__(self, model: ChatModel, gate: asyncio.Semaphore) -> None:
        self._model, self._gate = model, gate

    @property
    def identity(self) -> str:
        return self._model.identity

    async def complete(self, request: Request) -> Completion:
        async with self._gate:
            return await self._model.complete(request)

    async def close(self) -> None:
        await self._model.close()


@contextlib.asynccontextmanager
async def opened(config: RunConfig, name: str, endpoints: Endpoints) -> AsyncIterator[ChatModel]:
    """A client of the model `name`, closed at the end; calls in flight are bounded over all its clients."""
    limit = config.models[name].max_concurrency
    gate = _gates.setdefault((name, id(asyncio.get_running_loop())), asyncio.Semaphore(limit))
    model = open_model(name, config.models[name], endpoint=endpoints.get(name))
    try:
        yield _Gated(model, gate)
    finally:
        await model.close()


@contextlib.asynccontextmanager
async def serving(config: RunConfig, names: Sequence[str]) -> AsyncIterator[Endpoints]:
    """Start the managed servers among `names`; yields their endpoints, stops them at the end whatever happens."""
    async with contextlib.AsyncExitStack() as stack:
        endpoints: Endpoints = {}
        for name in dict.fromkeys(names):
            model = config.models[name]
            if model.managed is not None:
                log = config.root / "logs" / f"vllm-{name}.log"
                board.say(f"serving {name} ({model.model}) with vLLM; log {log}")
                endpoints[name] = await stack.enter_async_context(
                    managed_server(model.model, model.managed, log)
                )
        yield endpoints


def with_policy(config: RunConfig, name: str, weights: Path) -> RunConfig:
    """The config with a trained checkpoint as its policy, served like the model that it was trained from."""
    served = config.models[config.policy.model].model_copy(update={"model": str(weights)})
    policy = config.policy.model_copy(update={"model": name})
    return config.model_copy(update={"models": {**config.models, name: served}, "policy": policy})


async def run_shard_stage(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """The body of every stage task."""
    async with opened(config, role_of(config, stage), endpoints) as model:
        update = board.stage(stage, None)
        job = job_of(config, stage, shard, model.identity)
        return await run_job(config, job, model, lambda progress: update(shard, progress))


async def run_stages(config: RunConfig, tasks: Mapping[str, ShardTask]) -> None:
    """Run stages, in order, over all shards, and publish an artifact for each.

    A shard goes on to its next stage without waiting for the others, within the stages that one managed
    server can answer; then the next model is served. Stages that are done start no server.
    """
    for group in _groups(config, list(tasks)):
        if await _all_done(config, group):
            for stage in group:
                await publish_stage(config, stage)
            continue
        async with serving(config, [role_of(config, stage) for stage in group]) as endpoints:
            await _run_group(config, {stage: tasks[stage] for stage in group}, endpoints)


async def _run_group(config: RunConfig, tasks: Mapping[str, ShardTask], endpoints: Endpoints) -> None:
    slots = asyncio.Semaphore(ACTIVE_SHARDS)

    async def chain(shard: int) -> None:
        async with slots:
            for stage, task in tasks.items():
                if shard < shards_of(config, stage):
                    await task(config, stage, shard, endpoints)

    with board:
        await all_of([chain(shard) for shard in range(max(shards_of(config, stage) for stage in tasks))])
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
