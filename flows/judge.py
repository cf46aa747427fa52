"""Judge: pairs are labelled in both orders, and what clears the threshold becomes the dataset."""

from __future__ import annotations

from typing import Any

from prefect import flow, task

from cai.config import RunConfig
from cai.config_file import override_config
from cai.export import export_run
from cai.preflight import preflight
from cai.publish import label_demonstrations, label_pairs
from cai.report.filter import write_filter
from cai.runfolder import start_run
from cai.shard import ShardReport
from flows.artifacts import publish_stage
from flows.common import TASK, run_shard_stage, run_stages
from flows.generate import generate_task, prompts_task
from flows.revise import revise_task
from flows.serving import Endpoints


@task(name="judge", task_run_name="{stage}-{shard}", **TASK)
async def judge_task(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """Label the pairs of one shard."""
    return await run_shard_stage(config, stage, shard, endpoints)


@task(name="export", **TASK)
async def export_task(config: RunConfig, parts: list[str]) -> dict[str, int]:
    """Publish pairs and demonstrations, and the dataset with its card; returns rows a part."""
    label = {"preference": ("pairs", label_pairs), "sft": ("demonstrations", label_demonstrations)}
    for part in parts:
        stage, publish = label[part]
        for shard in range(config.shards):
            publish(config, shard)
        await publish_stage(config, stage)
    if "preference" in parts:
        write_filter(config)
    return export_run(config)


@flow(name="cai-judge")
async def judge(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """A run up to its dataset, without training. The paper recipe judges SFT samples, so it needs the pipeline."""
    config = override_config(config, [*(overrides or []), "recipe=direct"])
    await preflight(config)
    with start_run(config):
        await prompts_task(config)
        await run_stages(config, {"generate": generate_task, "revise": revise_task, "judge": judge_task})
        return await export_task(config, ["preference", "sft"])
