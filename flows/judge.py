"""Judge: pairs are labelled in both orders, and what clears the threshold becomes the dataset."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_table_artifact

from cai.config import RunConfig
from cai.config_file import override_config
from cai.export import export_run
from cai.judges import judge_stages
from cai.preflight import preflight
from cai.publish import combine_judges, label_demonstrations, label_pairs
from cai.qualification import is_gated
from cai.report.coverage import write_coverage
from cai.report.coverage_view import rows_of
from cai.report.edit import write_edit
from cai.report.filter import write_filter
from cai.runfolder import start_run
from cai.serving import Endpoints
from cai.shard import ShardReport
from flows.artifacts import key_of, publish_stage
from flows.common import TASK, ShardTask, run_shard_stage, run_stages
from flows.generate import generate_task, prompts_task
from flows.qualify import conclude, measure_tasks
from flows.revise import revise_task


@task(name="judge", task_run_name="{stage}-{shard}", **TASK)
async def judge_task(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """Label the pairs of one shard."""
    return await run_shard_stage(config, stage, shard, endpoints)


@task(name="combine", task_run_name="{stage}-{shard}", **TASK)
async def combine_task(config: RunConfig, stage: str, shard: int) -> ShardReport:
    """What the judges of a jury or a cascade add up to over one shard; no model is asked."""
    return combine_judges(config, stage, shard)


def judge_tasks(config: RunConfig, stage: str) -> dict[str, ShardTask]:
    """The stages in which the judges of `judge` or `sft-judge` are asked, in order."""
    return dict.fromkeys(judge_stages(config, stage), judge_task)


async def combine(config: RunConfig, stage: str) -> None:
    """Publish `judge` or `sft-judge` from the stages of its judges; a single judge has done so itself."""
    if config.judge.model:
        return
    for shard in range(config.shards):
        await combine_task(config, stage, shard)
    await publish_stage(config, stage)


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
        await acreate_table_artifact(
            table=list(rows_of(write_coverage(config))),
            key=key_of(config, "coverage"),
            description=f"{config.name}: what each principle did",
        )
        write_edit(config)
    return export_run(config)


@flow(name="cai-judge")
async def judge(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """A run up to its dataset, without training. The paper recipe judges SFT samples, so it needs the pipeline."""
    config = override_config(config, [*(overrides or []), "recipe=direct"])
    await preflight(config)
    with start_run(config):
        await prompts_task(config)
        stages = measure_tasks(config) if is_gated(config) else {}
        stages |= {"generate": generate_task, "revise": revise_task}
        await run_stages(config, stages | judge_tasks(config, "judge"))
        if is_gated(config):
            await conclude(config)
        await combine(config, "judge")
        return await export_task(config, ["preference", "sft"])
