"""Generate: every prompt is answered n times by the policy."""

from __future__ import annotations

from typing import Any

from prefect import flow, task

from cai.config import RunConfig
from cai.config_file import override_config
from cai.preflight import preflight
from cai.publish import write_prompts
from cai.report.status import run_status
from cai.runfolder import start_run
from cai.serving import Endpoints
from cai.shard import ShardReport
from flows.artifacts import publish_stage
from flows.common import TASK, run_shard_stage, run_stages


@task(name="prompts", **TASK)
async def prompts_task(config: RunConfig) -> int:
    """Read the prompt sources and publish their shards; returns the number of prompts."""
    reports = write_prompts(config)
    await publish_stage(config, "prompts")
    return sum(report.rows_out for report in reports)


@task(name="generate", task_run_name="{stage}-{shard}", **TASK)
async def generate_task(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """Sample the policy over one shard."""
    return await run_shard_stage(config, stage, shard, endpoints)


@flow(name="cai-generate")
async def generate(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Prompts and replies of a run, and nothing more."""
    config = override_config(config, overrides or [])
    await preflight(config)
    with start_run(config):
        await prompts_task(config)
        await run_stages(config, {"generate": generate_task})
    return dict(run_status(config.root)["stages"])
