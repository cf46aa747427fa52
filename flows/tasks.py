"""The units of a run as Prefect tasks: a task is one stage over one shard, or one part that asks no model.

Names and numbers in, a report out; never rows, clients or secrets. Retries and result caching stay off: the
backend has the one retry policy, our manifests know what is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from cai.conduct import work
from cai.conduct.work import Work
from cai.config import RunConfig
from cai.serving import Endpoints
from cai.shard import ShardReport
from flows.artifacts import show
from flows.workers import on_ray, stage_there

TASK: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}

RUN_NAMES = {
    "generate": "{stage}-{shard}",
    "revise": "{stage}-{shard}",
    "judge": "{stage}-{shard}",
    "qualify": "{stage}",
    "evaluate": "{stage}",
    "grade": "{stage}",
    "compare": "{stage}",
    "steps": "{stage}-{shard}",
}
HERE = {name: task(name=name, task_run_name=run, **TASK)(work.stage) for name, run in RUN_NAMES.items()}
THERE = {name: task(name=name, task_run_name=run, **TASK)(stage_there) for name, run in RUN_NAMES.items()}


def kind_of(stage: str) -> str:
    """The task that a stage is run by: `sft-judge-x` and `dpo-1-judge` are a `judge`."""
    return next(part for part in stage.split("-") if part in RUN_NAMES)


async def run_stage(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """One stage over one shard, as the task of its kind."""
    return await HERE[kind_of(stage)](config, stage, shard, endpoints)


PREFECT = Work(
    prompts=task(name="prompts", **TASK)(work.prompts),
    held_out=task(name="held-out", **TASK)(work.held_out),
    stage=run_stage,
    combine=task(name="combine", task_run_name="{stage}-{shard}", **TASK)(work.combine),
    export=task(name="export", **TASK)(work.export),
    train=task(name="train", task_run_name="train-{model}", **TASK)(work.train),
    show=show,
)


@contextlib.contextmanager
def tasks_of(config: RunConfig) -> Iterator[Work]:
    """The units of a run as Prefect tasks; where the config says so, Ray's workers carry out the stages."""
    if config.ray is None:
        yield PREFECT
        return
    with on_ray(config.ray, lambda stage: THERE[kind_of(stage)]) as stage:
        yield PREFECT._replace(stage=stage, slots=config.ray.workers)
