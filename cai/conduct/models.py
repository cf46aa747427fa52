"""Dataset to models: SFT, DPO and their kin, and what they changed on held-out prompts."""

from __future__ import annotations

from typing import Any

from cai.conduct.dataset import hold_out
from cai.conduct.stages import run_stages
from cai.conduct.work import Work, checkpoint
from cai.config import Kind, RunConfig
from cai.config.training import FROM_BASE
from cai.errors import ConfigError
from cai.evaluate.summary import write_evaluation
from cai.preflight import preflight
from cai.publish import grade_by_rules
from cai.report.model_card import write_model_cards
from cai.runfolder import hold_run, start_run
from cai.serving import with_policy


async def train(config: RunConfig, work: Work) -> dict[str, Any]:
    """Everything that the config trains, on the dataset that a run has exported; returns the reports."""
    await preflight(config)
    with hold_run(config):
        return {kind: await train_one(config, kind, work) for kind in config.trained}


async def train_one(config: RunConfig, kind: Kind, work: Work) -> dict[str, Any]:
    """Train one model: from the SFT model where the run has one, but for SFT itself and for ORPO, which includes it."""
    base = config.models[config.policy.model].model
    if config.sft and kind not in FROM_BASE:
        base = str(checkpoint(config, "sft"))
    found = await work.train(config, kind, base)
    if not found["skipped"]:
        write_model_cards(config, [kind], {})
    await work.show(config, f"train-{kind}")
    return found


async def evaluate(config: RunConfig, work: Work) -> dict[str, Any]:
    """Evaluate the models of a run that has been trained; returns the rates by model and metric.

    A run that trains nothing needs no start before: its base is evaluated as it is.
    """
    await preflight(config)
    hold = hold_run if (config.root / "config.json").is_file() else start_run
    with hold(config):
        return await evaluate_models(config, work)


async def evaluate_models(config: RunConfig, work: Work) -> dict[str, Any]:
    """Base and trained policies answer the same held-out prompts with the same seeds, and every reply is graded."""
    if config.evaluate is None:
        raise ConfigError("the config has no 'evaluate' section")
    await hold_out(config, work)
    models = {"base": config}
    models |= {kind: with_policy(config, kind, checkpoint(config, kind)) for kind in config.policies}
    for name, variant in models.items():
        await run_stages(variant, [f"evaluate-{name}"], work)
    if config.evaluate.grader == "judge":
        await run_stages(config, [f"grade-{name}" for name in models], work)
    else:
        for name in models:
            grade_by_rules(config, name)
    found = write_evaluation(config, list(models))
    write_model_cards(config, config.policies, found)
    await work.show(config, "evaluation")
    return found
