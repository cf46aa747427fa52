"""Everything that can be found wrong before the first call is made, found before the first call is made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cai.accounts.budget import check_budget
from cai.config import ModelConfig, RunConfig
from cai.constitution import load_constitution
from cai.errors import ConfigError, ProviderError
from cai.judges.calibration import check_calibration, judge_identity, read_calibration, rules
from cai.judges.label_error import check_measured
from cai.judges.qualification import is_gated, kind_of, labelled_pairs, principles_a_pair, require_qualified
from cai.models import check_model, check_sampling, open_model, probe
from cai.models.engine import adapter_rank
from cai.models.weights import require_safetensors
from cai.prompts import GRADING, STEPWISE, Templates, load_templates
from cai.rows import Drop
from cai.sources import read_prompts
from cai.stages.verdict import check_method
from cai.train.accelerated import require_deepspeed
from cai.train.launch import check_args

NOWHERE = "http://127.0.0.1:9/v1"  # where a managed server will not be asked for its model's identity


def check_inputs(config: RunConfig) -> None:
    """Check what needs no model, no network and no heavy library: takes well under a second.

    Raises ConfigError or ConstitutionError with the first problem of constitution, templates, prompt sources,
    API keys, prices, sampling, judge or model folders; JudgeError where the judge's calibration found it unfit.
    """
    check_budget(config)
    constitution = load_constitution(config.constitution)
    for use in ("revise", "judge"):
        if not any(use in principle.use for principle in constitution.principles):
            raise ConfigError(
                f"{config.constitution}: no principle with use: {use}; the run would label nothing"
            )
    templates = load_templates(config.templates)
    if config.evaluate and config.evaluate.grader == "judge" and (missing := GRADING - set(templates)):
        raise ConfigError(
            f"evaluate.grader: judge needs the template {min(missing)}.txt, not in {config.templates!r}"
        )
    if config.evaluate and config.evaluation_judge not in config.judge.judges:
        _check_judging(config, config.evaluation_judge, templates)
    _check_steps(config, templates)
    for section in (config.policy, config.critic):
        check_sampling(config.models[section.model], section.sampling.temperature, section.sampling.top_p)
        _check_model(section.model, config.models[section.model])
    _check_judge(config, templates)
    if is_gated(config):
        labelled_pairs(config, constitution)
    for source in (*config.prompts, *(config.evaluate.sources if config.evaluate else ())):
        if source.path is not None:
            next((row for row in read_prompts([source]) if not isinstance(row, Drop)), None)


async def preflight(config: RunConfig) -> None:
    """Everything that `check_inputs` checks, then training options and running endpoints; nothing of it is paid.

    Raises as `check_inputs` does; an endpoint that does not answer, or does not serve the model, is a
    ConfigError here because nothing has been spent yet.
    """
    check_inputs(config)
    check_measured(config)
    if sections := {
        kind: section for kind in config.trained if (section := config.section(kind)) is not None
    }:
        check_args(sections)
        for kind, section in sections.items():
            require_deepspeed(kind, section.accelerate)
    await check_identity(config)
    evaluating = [config.evaluation_judge] if config.evaluate else []
    stepping = [config.step_judge] if config.stepwise else []
    asked = {config.policy.model, config.critic.model, *config.judge.judges, *evaluating, *stepping}
    await _check_endpoints(config, asked)


def check_judge_models(config: RunConfig) -> None:
    """The part of `check_inputs` that asking the judges anything needs: nothing is asked of policy and critic."""
    _check_judge(config, load_templates(config.templates))


def check_judge(config: RunConfig) -> None:
    """The part of `check_inputs` that judging labelled pairs needs."""
    check_judge_models(config)
    principles_a_pair(config)


async def preflight_judge(config: RunConfig) -> None:
    """The part of `preflight` that judging labelled pairs needs."""
    check_judge(config)
    await _check_endpoints(config, set(config.judge.judges))


def _check_judge(config: RunConfig, templates: Templates) -> None:
    judge = config.judge
    for name in judge.judges:
        _check_judging(config, name, templates)
    if judge.calibration is not None:
        stored = read_calibration(Path(judge.calibration))
        rules(stored, judge)
        if judge.require_qualification:
            require_qualified(stored.figures, judge.calibration)


def _check_steps(config: RunConfig, templates: Templates) -> None:
    if config.stepwise is None:
        return
    if missing := STEPWISE - set(templates):
        raise ConfigError(
            f"stepwise: needs the template {min(missing)}.txt, not in {config.templates!r}; copy it from "
            "cai/prompts/default/ (the embedded model has none: it never learned to judge a step)"
        )
    if config.step_judge not in config.judge.judges:
        _check_judging(config, config.step_judge, templates)


def _check_judging(config: RunConfig, name: str, templates: Templates) -> None:
    sampling = config.judge.sampling
    check_sampling(config.models[name], sampling.temperature, sampling.top_p)
    _check_model(name, config.models[name])
    check_method(config.judge, name, config.models[name], templates)


def _check_model(name: str, model: ModelConfig) -> None:
    check_model(model)
    looks_local = model.model.startswith((".", "/")) or model.model.count("/") > 1
    if model.managed is not None and looks_local and not Path(model.model).is_dir():
        raise ConfigError(f"models.{name}.model: no folder {model.model}")
    if model.managed is not None and looks_local:
        require_safetensors(model.model)
    if model.adapter is not None:
        try:
            adapter_rank(model.adapter)
            require_safetensors(model.adapter)
        except ConfigError as error:
            raise ConfigError(f"models.{name}: {error}") from error


async def check_identity(config: RunConfig) -> None:
    """Refuse a calibration that was made for another judge. Raises ConfigError."""
    if config.judge.calibration is None:
        return
    templates = load_templates(config.templates)
    judges = []
    for name in config.judge.judges:
        client = open_model(name, config.models[name], endpoint=config.models[name].endpoint or NOWHERE)
        judges.append(judge_identity(client.identity, config.judge, templates))
        await client.close()
    path = Path(config.judge.calibration)
    check_calibration(path, read_calibration(path), kind_of(config), judges, config.judge.principles)


async def _check_endpoints(config: RunConfig, names: Iterable[str]) -> None:
    for name in sorted(names):
        model = config.models[name]
        if model.managed is None:
            for endpoint in model.endpoints or (model.endpoint,):
                await check_endpoint(name, model, endpoint)


async def check_endpoint(name: str, model: ModelConfig, endpoint: str | None) -> None:
    """Ask an endpoint, for free, whether it is there and serves the model `name`. Raises ConfigError."""
    client = open_model(name, model, endpoint=endpoint)
    try:
        await probe(client)
    except ProviderError as error:
        raise ConfigError(f"models.{name}: {error}") from error
    finally:
        await client.close()
