"""Everything that can be found wrong before the first call is made, found before the first call is made."""

from __future__ import annotations

from pathlib import Path

from cai.config import ModelConfig, RunConfig, TrainingConfig
from cai.constitution import load_constitution
from cai.errors import ConfigError, ProviderError
from cai.models import check_model, check_sampling, open_model, probe
from cai.prompts import OPTIONAL, load_templates
from cai.rows import Drop
from cai.sources import read_prompts
from cai.train.launch import check_args
from cai.train.plan import Kind


def check_inputs(config: RunConfig) -> None:
    """Check what needs no model, no network and no heavy library: takes well under a second.

    Raises ConfigError or ConstitutionError with the first problem of constitution, templates, prompt sources,
    API keys, sampling or model folders.
    """
    constitution = load_constitution(config.constitution)
    for use in ("revise", "judge"):
        if not any(use in principle.use for principle in constitution.principles):
            raise ConfigError(
                f"{config.constitution}: no principle with use: {use}; the run would label nothing"
            )
    templates = load_templates(config.templates)
    if config.evaluate and config.evaluate.grader == "judge" and (missing := OPTIONAL - set(templates)):
        raise ConfigError(
            f"evaluate.grader: judge needs the template {min(missing)}.txt, not in {config.templates!r}"
        )
    roles = [(config.policy.model, config.policy.sampling), (config.critic.model, config.critic.sampling)]
    for name, sampling in (*roles, *((judge, config.judge.sampling) for judge in config.judge.judges)):
        check_sampling(config.models[name], sampling.temperature, sampling.top_p)
    for name in {config.policy.model, config.critic.model, *config.judge.judges}:
        _check_model(name, config.models[name])
    for source in (*config.prompts, *(config.evaluate.sources if config.evaluate else ())):
        if source.path is not None:
            next((row for row in read_prompts([source]) if not isinstance(row, Drop)), None)


async def preflight(config: RunConfig) -> None:
    """Everything that `check_inputs` checks, then training options and running endpoints; nothing of it is paid.

    Raises ConfigError or ConstitutionError; an endpoint that does not answer, or does not serve the model, is a
    ConfigError here because nothing has been spent yet.
    """
    check_inputs(config)
    sections: dict[Kind, TrainingConfig] = {}
    if config.sft:
        sections["sft"] = config.sft
    if config.dpo:
        sections["dpo"] = config.dpo
    if sections:
        check_args(sections)
    for name in {config.policy.model, config.critic.model, *config.judge.judges}:
        await _check_endpoint(name, config.models[name])


def _check_model(name: str, model: ModelConfig) -> None:
    check_model(model)
    looks_local = model.model.startswith((".", "/")) or model.model.count("/") > 1
    if model.managed is not None and looks_local and not Path(model.model).is_dir():
        raise ConfigError(f"models.{name}.model: no folder {model.model}")


async def _check_endpoint(name: str, model: ModelConfig) -> None:
    if model.managed is not None:
        return
    client = open_model(name, model)
    try:
        await probe(client)
    except ProviderError as error:
        raise ConfigError(f"models.{name}: {error}") from error
    finally:
        await client.close()
