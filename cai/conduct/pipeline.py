"""The whole method: prompts → generate → revise → judge → dataset → SFT → DPO → evaluate.

Recipe `direct`: revisions and samples of one policy are judged once; SFT and DPO (or its kin) both learn from that.
Recipe `paper` (Bai et al. 2022): SFT on the revisions first, then fresh samples of the SFT model are judged for DPO;
with `dpo.rounds`, samples of what came of that, and so on.
"""

from __future__ import annotations

import time
from typing import Any

from cai.conduct.accounts import account
from cai.conduct.dataset import export, hold_out, label, read_prompts
from cai.conduct.models import evaluate_models, train_one
from cai.conduct.outcome import publish_report
from cai.conduct.rounds import sample
from cai.conduct.work import Work
from cai.config import RunConfig
from cai.judges.stages import judged_sources
from cai.preflight import preflight
from cai.report.status import run_status
from cai.rounds import rounds_of
from cai.runfolder.hold import finish_run, start_run
from cai.stepwise import parts


async def pipeline(config: RunConfig, work: Work) -> dict[str, Any]:
    """Run a config from prompts to evaluated models; whatever is done already is not done again."""
    await preflight(config)
    started = time.monotonic()
    with start_run(config):
        await read_prompts(config, work)
        if config.evaluate:
            await hold_out(config, work)
        config = await label(config, work, beside="evaluate-base" if config.evaluate else None)
        sft = ["sft"] if "revision" in judged_sources(config, "judge") else []
        later_on = [] if config.recipe == "paper" else ["preference", *parts(config)]
        dataset = await export(config, [*sft, *later_on], work)
        if config.sft:
            await train_one(config, "sft", work)
        later = {one.model: one for one in rounds_of(config)[1:]}
        for one in rounds_of(config)[:1]:
            dataset = await sample(config, one, work)
        for model in config.trained_models:
            if model in later:
                dataset = await sample(config, later[model], work)
            if model != "sft":
                await train_one(config, model, work)
        if config.evaluate:
            await evaluate_models(config, work)
        account(config)
        finish_run(config, dataset, time.monotonic() - started)
        publish_report(config)
    return run_status(config.root)
