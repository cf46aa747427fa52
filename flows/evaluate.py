"""Evaluate: base, SFT and DPO answer the same held-out prompts with the same seeds, and every reply is graded."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_table_artifact

from cai.config import RunConfig
from cai.config_file import override_config
from cai.errors import ConfigError
from cai.evaluate.summary import write_evaluation
from cai.preflight import preflight
from cai.publish import grade_by_rules, write_held_out
from cai.runfolder import hold_run
from cai.serving import Endpoints, with_policy
from cai.shard import ShardReport
from flows.artifacts import key_of, publish_stage
from flows.common import TASK, run_shard_stage, run_stages
from flows.train import checkpoint


@task(name="evaluate", task_run_name="{stage}", **TASK)
async def evaluate_task(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """One model's replies to the held-out prompts."""
    return await run_shard_stage(config, stage, shard, endpoints)


@task(name="grade", task_run_name="{stage}", **TASK)
async def grade_task(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """The judge grades one model's replies."""
    return await run_shard_stage(config, stage, shard, endpoints)


@task(name="held-out", **TASK)
async def held_out_task(config: RunConfig) -> int:
    """Publish the held-out prompts; returns their number."""
    if config.evaluate is None:
        raise ConfigError("the config has no 'evaluate' section")
    report = write_held_out(config, config.evaluate.sources)
    await publish_stage(config, "held-out")
    return report.rows_out


async def evaluate_models(config: RunConfig) -> dict[str, Any]:
    """Answer and grade for the base model and every trained one; returns the rates by model and metric."""
    if config.evaluate is None:
        raise ConfigError("the config has no 'evaluate' section")
    await held_out_task(config)
    models = {"base": config}
    models |= {
        kind: with_policy(config, kind, checkpoint(config, kind))
        for kind in ("sft", "dpo")
        if getattr(config, kind)
    }
    for name, variant in models.items():
        await run_stages(variant, {f"evaluate-{name}": evaluate_task})
    if config.evaluate.grader == "judge":
        await run_stages(config, {f"grade-{name}": grade_task for name in models})
    else:
        for name in models:
            grade_by_rules(config, name)
    found = write_evaluation(config, list(models))
    table = [
        {"model": name, "metric": metric, **value}
        for name in models
        for metric, value in found[name].items()
        if isinstance(value, dict)
    ]
    await acreate_table_artifact(table=table, key=key_of(config, "evaluation"))
    return found


@flow(name="cai-evaluate")
async def evaluate(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Evaluate the models of a run that has been trained."""
    config = override_config(config, overrides or [])
    await preflight(config)
    with hold_run(config):
        return await evaluate_models(config)
