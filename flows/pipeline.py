"""The whole method: prompts → generate → revise → judge → dataset → SFT → DPO → evaluate.

Recipe `direct`: revisions and samples of one policy are judged once; SFT and DPO both learn from that.
Recipe `paper` (Bai et al. 2022): SFT on the revisions first, then fresh samples of the SFT model are judged for DPO.
"""

from __future__ import annotations

import time
from typing import Any

from prefect import flow

from cai.config import RunConfig
from cai.config_file import override_config
from cai.judges import judged_sources
from cai.preflight import preflight
from cai.qualification import is_gated
from cai.report.page import write_report
from cai.report.status import run_status
from cai.runfolder import finish_run, start_run
from cai.serving import with_policy
from flows.common import run_stages
from flows.evaluate import evaluate_models, evaluate_task, held_out_task
from flows.generate import generate_task, prompts_task
from flows.judge import combine, export_task, judge_tasks
from flows.qualify import conclude, measure_tasks
from flows.revise import revise_task
from flows.train import checkpoint, train_task


@flow(name="cai-pipeline")
async def pipeline(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Run a config from prompts to evaluated models; whatever is done already is not done again.

    `overrides`: `dotted.key=value` changes to the config, as with `cai run --set`.
    """
    config = override_config(config, overrides or [])
    await preflight(config)
    started = time.monotonic()
    with start_run(config):
        await prompts_task(config)
        stages = measure_tasks(config) if is_gated(config) else {}
        stages |= {"generate": generate_task, "revise": revise_task}
        if config.evaluate:
            await held_out_task(config)
            stages["evaluate-base"] = evaluate_task  # while the base model is being served anyway
        await run_stages(config, stages | judge_tasks(config, "judge"))
        if is_gated(config):
            await conclude(config)
        await combine(config, "judge")
        parts = ["sft"] if "revision" in judged_sources(config, "judge") else []
        dataset = await export_task(config, parts if config.recipe == "paper" else [*parts, "preference"])
        base = config.models[config.policy.model].model
        if config.sft:
            await train_task(config, "sft", base)
            base = str(checkpoint(config, "sft"))
        if config.recipe == "paper":
            policy = with_policy(config, "sft", checkpoint(config, "sft"))
            await run_stages(policy, {"sft-generate": generate_task, **judge_tasks(config, "sft-judge")})
            await combine(config, "sft-judge")
            dataset = await export_task(config, ["preference"])
        if config.dpo:
            await train_task(config, "dpo", base)
        if config.evaluate:
            await evaluate_models(config)
        finish_run(config, dataset, time.monotonic() - started)
        write_report(config)
    return run_status(config.root)
