"""Prompts to dataset: answer, critique and revise, judge, keep what clears the threshold."""

from __future__ import annotations

from functools import partial
from typing import Any

from cai.conduct.accounts import account
from cai.conduct.judges import conclude, measure_stages
from cai.conduct.stages import run_stages
from cai.conduct.target import draw_until, first_draw
from cai.conduct.work import Work
from cai.config import RunConfig
from cai.judges.qualification import is_gated
from cai.judges.stages import judge_stages
from cai.preflight import preflight
from cai.report.status import run_status
from cai.rounds import stages_of
from cai.runfolder.hold import start_run
from cai.serving import outliving_engines
from cai.stepwise import parts, step_stages
from cai.target import forget_shards


async def generate(config: RunConfig, work: Work) -> dict[str, Any]:
    """Prompts and replies of a run, and nothing more; returns what its stages came to."""
    return await _first_stages(config, ["generate"], work)


async def revise(config: RunConfig, work: Work) -> dict[str, Any]:
    """A run up to its revisions; replies that are there already are not asked again."""
    return await _first_stages(config, ["generate", "revise"], work)


async def judge(config: RunConfig, work: Work) -> dict[str, int]:
    """A run up to its dataset, of which the rows a part are returned. For the recipe `direct`."""
    await preflight(config)
    with start_run(config):
        await read_prompts(config, work)
        config = await label(config, work)
        dataset = await export(config, ["preference", "sft", *parts(config)], work)
        account(config, whole=False)
        return dataset


async def read_prompts(config: RunConfig, work: Work) -> None:
    """Publish the prompts; with a target, those that it certainly needs."""
    if config.pairs.target is None:
        forget_shards(config.root, config.shards)
    await work.prompts(first_draw(config))
    await work.show(config, "prompts")


async def hold_out(config: RunConfig, work: Work) -> None:
    """Publish the prompts of the evaluation."""
    await work.held_out(config)
    await work.show(config, "held-out")


async def label(config: RunConfig, work: Work, beside: str | None = None) -> RunConfig:
    """Answer, revise and judge. `beside`: one more stage of the policy's, done while it is being served.

    Returns the config to go on with: with a target, the prompts that were drawn for it are its shards.
    """
    gated = is_gated(config)
    first = [*(measure_stages(config) if gated else ()), "generate", "revise", *([beside] if beside else ())]
    stages = [*first, *judge_stages(config, "judge"), *step_stages(config, "generate")]
    if config.pairs.target is None:
        await run_stages(config, stages, work)
    else:
        config = await outliving_engines(partial(draw_until, config, stages, work))
    if gated:
        await conclude(config, work)
    await combine(config, "judge", work)
    return config


async def combine(config: RunConfig, stage: str, work: Work) -> None:
    """Publish `judge`, `sft-judge` … from the stages of its judges; a single judge has done so itself."""
    if config.judge.model:
        return
    for shard in range(config.shards):
        await work.combine(config, stage, shard)
    await work.show(config, stage)


async def export(config: RunConfig, parts: list[str], work: Work) -> dict[str, int]:
    """Publish these parts of the dataset; returns the rows of all that are there."""
    dataset = await work.export(config, parts)
    for stage in (stage for part in parts for stage in stages_of(config, part)):
        await work.show(config, stage)
    if parts != ["sft"]:
        await work.show(config, "coverage")
    return dataset


async def _first_stages(config: RunConfig, stages: list[str], work: Work) -> dict[str, Any]:
    await preflight(config)
    config = first_draw(config)
    with start_run(config):
        await read_prompts(config, work)
        await run_stages(config, stages, work)
        account(config, whole=False)
    return dict(run_status(config.root)["stages"])
