"""Dataset to models: SFT, DPO and their kin, and what they changed on held-out prompts."""

from __future__ import annotations

from typing import Any

from cai.conduct.accounts import account
from cai.conduct.dataset import hold_out
from cai.conduct.divergence import divergence
from cai.conduct.outcome import publish_report
from cai.conduct.stages import run_stages
from cai.conduct.work import Work, checkpoint
from cai.config import RunConfig
from cai.errors import ConfigError
from cai.evaluate.compare import compare_stage
from cai.evaluate.summary import write_evaluation
from cai.preflight import preflight
from cai.publish import grade_by_rules
from cai.report.model_card import write_model_cards
from cai.runfolder.hold import hold_run, start_run
from cai.serving import with_policy


async def train(config: RunConfig, work: Work) -> dict[str, Any]:
    """Everything that the config trains, on the dataset that a run has exported; returns the reports.

    Raises ConfigError for DPO in rounds, which does not only train.
    """
    if config.rounds > 1:
        raise ConfigError(
            f"dpo.rounds: {config.rounds}: later rounds learn from samples of earlier ones, which a training alone "
            "does not draw; use cai run, or set dpo.rounds=1"
        )
    await preflight(config)
    with hold_run(config):
        return {model: await train_one(config, model, work) for model in config.trained_models}


async def train_one(config: RunConfig, model: str, work: Work) -> dict[str, Any]:
    """Train one model: from the one before in a later round of DPO, else from the SFT model where the run has one.

    SFT itself starts from the policy, and so does ORPO, which includes it.
    """
    start = config.start_of(model)
    base = config.models[config.policy.model].model if start == "base" else str(checkpoint(config, start))
    found = await work.train(config, model, base)
    if not found["skipped"]:
        write_model_cards(config, [model], {})
    await work.show(config, f"train-{model}")
    return found


async def evaluate(config: RunConfig, work: Work) -> dict[str, Any]:
    """Evaluate the models of a run that has been trained; returns the rates by model and metric.

    A run that trains nothing needs no start before: its base is evaluated as it is. A report page that is there is
    written again where it would say something else.
    """
    await preflight(config)
    hold = hold_run if (config.root / "config.json").is_file() else start_run
    with hold(config):
        found = await evaluate_models(config, work)
        account(config, whole=False)
        if (config.root / "report.html").is_file():
            publish_report(config)
        return found


async def evaluate_models(config: RunConfig, work: Work) -> dict[str, Any]:
    """Base and trained policies answer the same held-out prompts with the same seeds, and every reply is graded.

    Then the judge compares the replies of the models that the config sets side by side.
    """
    if config.evaluate is None:
        raise ConfigError("the config has no 'evaluate' section")
    await hold_out(config, work)
    models = {"base": config}
    models |= {name: with_policy(config, name, checkpoint(config, name)) for name in config.policies}
    for name, variant in models.items():
        await run_stages(variant, [f"evaluate-{name}"], work)
    judged: list[str] = []
    if config.evaluate.grader == "judge":
        judged += [f"grade-{name}" for name in models]
    else:
        for name in models:
            grade_by_rules(config, name)
    await run_stages(config, [*judged, *map(compare_stage, config.compared)], work)
    weights = {name: variant.models[variant.policy.model].model for name, variant in models.items()}
    moved = await divergence(config, weights) if config.evaluate.divergence else {}
    found = write_evaluation(config, list(models), moved)
    write_model_cards(config, config.policies, found)
    await work.show(config, "evaluation")
    return found
