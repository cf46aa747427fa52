"""The units of a run as Prefect tasks: a task is one stage over one shard, or one part that asks no model.

Names and numbers in, a report out; never rows, clients or secrets. Retries and result caching stay off: the
backend has the one retry policy, our manifests know what is done.
"""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from cai.conduct import work
from cai.conduct.work import Work
from cai.config import RunConfig
from cai.serving import Endpoints
from cai.shard import ShardReport
from flows.artifacts import show

TASK: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}

STAGES = {
    name: task(name=name, task_run_name=run_name, **TASK)(work.stage)
    for name, run_name in (
        ("generate", "{stage}-{shard}"),
        ("revise", "{stage}-{shard}"),
        ("judge", "{stage}-{shard}"),
        ("qualify", "{stage}"),
        ("evaluate", "{stage}"),
        ("grade", "{stage}"),
    )
}


async def run_stage(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """One stage over one shard, as the task of its kind: `sft-judge-x` is a `judge`."""
    return await STAGES[kind_of(stage)](config, stage, shard, endpoints)


def kind_of(stage: str) -> str:
    """The task that a stage is run by."""
    return stage.removeprefix("sft-").split("-")[0]


PREFECT = Work(
    prompts=task(name="prompts", **TASK)(work.prompts),
    held_out=task(name="held-out", **TASK)(work.held_out),
    stage=run_stage,
    combine=task(name="combine", task_run_name="{stage}-{shard}", **TASK)(work.combine),
    export=task(name="export", **TASK)(work.export),
    train=task(name="train", task_run_name="train-{kind}", **TASK)(work.train),
    show=show,
)
