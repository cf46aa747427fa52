"""One thing that was looked at, and which models of a config a run will ask."""

from __future__ import annotations

from typing import Literal

from cai.config import ModelConfig, RunConfig
from cai.rows import Row

State = Literal["ok", "note", "missing"]


class Finding(Row):
    """`area`: python, package, engine, gpu, key, input, weights, endpoint, disk or prefect.

    `state` missing: what is to be run needs it; note: worth knowing. `fix`: what to do about it; "" where it is ok.
    """

    area: str
    what: str
    found: str
    state: State
    fix: str = ""


def asked_models(config: RunConfig) -> dict[str, ModelConfig]:
    """The models that a run of the config asks, by name."""
    names = [config.policy.model, config.critic.model, *config.judge.judges]
    names += [config.evaluation_judge] if config.evaluate else []
    return {name: config.models[name] for name in dict.fromkeys(names)}


def needs_engine(config: RunConfig) -> bool:
    """True where the run starts vLLM itself."""
    return any(model.managed is not None for model in asked_models(config).values())
