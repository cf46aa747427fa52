"""Stages on Ray: each shard of a stage is a task of a Ray worker, in another process or on another node.

The workers share the run's folder and its endpoints; each journals its own shards there, so what they publish has
the bytes that one process would publish. `max_concurrency` and `limits` hold over all workers together: at most
`workers` tasks are under way, each with its share. A worker that dies is replaced by Ray: its task starts again and
asks for no reply that the journal has.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from cai.conduct import work
from cai.conduct.main import loop_factory
from cai.conduct.work import on_board
from cai.config import RayConfig, RunConfig
from cai.errors import CaiError, StoreError
from cai.serving import Endpoints
from cai.shard import ShardReport
from cai.shard.progress import progress_of
from flows.cluster import cluster, divided, key_for_workers
from flows.secrets import load_keys

Stage = Callable[[RunConfig, str, int, Endpoints], Awaitable[ShardReport]]


def stage_there(config: RunConfig, stage: str, shard: int, endpoints: Endpoints, folder: str) -> ShardReport:
    """The unit `stage` in a Ray worker, which works in the folder that the run was started in."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise StoreError(
            f"{folder}: not a folder on {os.uname().nodename} ({error.strerror}); Ray's workers need the run's "
            "folder under the same path"
        ) from error

    async def run() -> ShardReport:
        await load_keys(config)  # a worker of another node has an environment of its own
        return await work.stage(config, stage, shard, endpoints)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run())


@contextlib.contextmanager
def on_ray(ray: RayConfig, task_of: Callable[[str], Task[Any, ShardReport]]) -> Iterator[Stage]:
    """The unit `stage`, carried out by Ray workers as these tasks; Ray starts with the first. Raises ConfigError."""
    folder = str(Path.cwd())
    with contextlib.ExitStack() as stack:
        stack.enter_context(key_for_workers())

        @functools.cache
        def runner() -> Any:
            return stack.enter_context(cluster(ray))

        async def run(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
            seen = on_board(config, stage)
            async with get_client() as client:
                api = str(client.api_url)
            parameters = {
                "config": divided(config, ray.workers),
                "stage": stage,
                "shard": shard,
                "endpoints": endpoints,
                "folder": folder,
            }
            with temporary_settings({PREFECT_API_URL: api}):  # also of Prefect's temporary server
                future = runner().submit(task_of(stage), parameters)
            report = await _result(future, f"stage {stage}, shard {shard}")
            seen(shard, progress_of(report))
            return report

        yield run


async def _result(future: Any, what: str) -> ShardReport:
    """What a task returns or raises, without holding up the loop. Raises CaiError for a worker that keeps dying."""
    import ray

    reference = future.wrapped_future
    try:
        state = await asyncio.wrap_future(reference.future())
    except asyncio.CancelledError:
        ray.cancel(reference)
        raise
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        raise CaiError(
            f"{what}: its Ray worker ended ({first}); every finished call is kept, run again"
        ) from error
    found: ShardReport = await state.aresult()
    return found
