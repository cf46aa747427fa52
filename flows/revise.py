"""Revise: the first reply of each prompt is critiqued and revised, a drawn principle a round."""

from __future__ import annotations

from typing import Any

from prefect import flow, task

from cai.config import RunConfig
from cai.config_file import override_config
from cai.preflight import preflight
from cai.report.status import run_status
from cai.runfolder import start_run
from cai.serving import Endpoints
from cai.shard import ShardReport
from flows.common import TASK, run_shard_stage, run_stages
from flows.generate import generate_task, prompts_task


@task(name="revise", task_run_name="{stage}-{shard}", **TASK)
async def revise_task(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """Critique and revise the replies of one shard."""
    return await run_shard_stage(config, stage, shard, endpoints)


@flow(name="cai-revise")
async def revise(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """A run up to its revisions; replies that are there already are not asked again."""
    config = override_config(config, overrides or [])
    await preflight(config)
    with start_run(config):
        await prompts_task(config)
        await run_stages(config, {"generate": generate_task, "revise": revise_task})
    return dict(run_status(config.root)["stages"])
