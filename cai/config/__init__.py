"""The run config: everything that determines a run, as frozen models that refuse unknown keys.

The same models are the form that Prefect shows for a flow run; `cai.config_file` reads them from YAML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cai.config.models import LimitsConfig, ManagedConfig, ModelConfig, PriceConfig
from cai.config.prompts import EvaluateConfig, SourceConfig
from cai.config.roles import CriticConfig, JudgeConfig, PairsConfig, PolicyConfig, SamplingConfig
from cai.config.section import Section, Yaml
from cai.config.training import (
    FROM_BASE,
    KINDS,
    POLICIES,
    REWARDED,
    DpoConfig,
    Kind,
    TrainingConfig,
    kind_of,
    models_of,
    refuse_absent,
    refuse_rounds,
)

__all__ = [
    "CriticConfig",
    "DpoConfig",
    "EvaluateConfig",
    "JudgeConfig",
    "Kind",
    "LimitsConfig",
    "ManagedConfig",
    "ModelConfig",
    "PairsConfig",
    "PolicyConfig",
    "PriceConfig",
    "RayConfig",
    "RunConfig",
    "SamplingConfig",
    "SourceConfig",
    "TrainingConfig",
    "Yaml",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of runs and models: they become names of folders


class RayConfig(Section):
    """Where shards run when one process is outgrown. `address`: of a running Ray cluster; null: started here."""

    workers: int = Field(2, ge=1)
    address: str | None = None


class RunConfig(Section):
    """Everything that determines a run; `name` is its folder below `outputs`."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    outputs: str = "outputs"
    seed: int = 0
    recipe: Literal["direct", "paper"] = "direct"
    constitution: str
    templates: str = "default"
    shards: int = Field(1, ge=1)
    prompts: tuple[SourceConfig, ...] = Field(min_length=1)
    models: dict[str, ModelConfig] = Field(min_length=1)
    policy: PolicyConfig
    critic: CriticConfig
    judge: JudgeConfig
    pairs: PairsConfig = PairsConfig()
    sft: TrainingConfig | None = None
    dpo: DpoConfig | None = None
    kto: TrainingConfig | None = None
    orpo: TrainingConfig | None = None
    cpo: TrainingConfig | None = None
    reward: TrainingConfig | None = None
    rloo: TrainingConfig | None = None
    grpo: TrainingConfig | None = None
    evaluate: EvaluateConfig | None = None
    ray: RayConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_trainings(cls, config: Any) -> Any:
        refuse_absent(config)
        return config

    @field_validator("models")
    @classmethod
    def _safe_names(cls, models: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        for name in models:
            if NAME.fullmatch(name) is None:
                raise ValueError(
                    f"{name!r} cannot be part of a folder's name; use letters, digits, '.', '_' and '-', "
                    "and begin with a letter or digit"
                )
        return models

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        roles = [("policy.model", self.policy.model), ("critic.model", self.critic.model)]
        for role, name in (*roles, *((self.judge.kind, name) for name in self.judge.judges)):
            if name not in self.models:
                raise ValueError(f"{role}: {name!r} is not under 'models' ({', '.join(self.models)})")
        if self.recipe == "paper" and (self.sft is None or len(self.trained) < 2):
            raise ValueError(
                "recipe 'paper' samples from the SFT model, so it needs both 'sft' and 'dpo' sections "
                "(or another one that learns from pairs)"
            )
        if self.reward is None and (rewarded := [kind for kind in REWARDED if kind in self.trained]):
            raise ValueError(
                f"{rewarded[0]}: is rewarded by the run's own reward model; add a 'reward' section"
            )
        if self.pairs.target is not None:
            self._check_target()
        policy = self.models[self.policy.model]
        if self.trained and policy.backend != "vllm":
            raise ValueError(
                f"{'/'.join(self.trained)} trains the policy's weights; give the policy a vllm model, or leave it out"
            )
        if self.policies and (self.evaluate or self.recipe == "paper") and policy.managed is None:
            raise ValueError(
                f"models.{self.policy.model}: a trained policy is served again, to be sampled or evaluated; "
                "give it 'managed' instead of 'endpoint'"
            )
        batched = [name for name, model in self.models.items() if model.mode == "batch"]
        if self.ray and batched:
            raise ValueError(
                f"models.{batched[0]}.mode: one process collects the requests of all shards into batches; "
                "leave out 'ray', or set mode: live"
            )
        self._check_workers()
        if taken := {*POLICIES, *self.policies} & set(self.models):
            raise ValueError(
                f"models: the name {min(taken)!r} is kept for the trained policy; choose another"
            )
        return self

    def _check_workers(self) -> None:
        for name, model in self.models.items() if self.ray else ():
            assert self.ray is not None
            if self.ray.address is not None and model.managed is not None:
                raise ValueError(
                    f"models.{name}.managed: it listens on this machine alone, and ray.address has workers on others; "
                    "give the 'endpoints' of running servers, or leave the address out"
                )
            if model.max_concurrency < self.ray.workers:
                raise ValueError(
                    f"models.{name}.max_concurrency: {model.max_concurrency} is less than one call for each of the "
                    f"{self.ray.workers} of ray.workers; raise it, or take fewer workers"
                )

    def _check_target(self) -> None:
        if self.recipe == "paper":
            raise ValueError(
                "pairs.target: recipe 'paper' judges samples of the SFT model, which is trained on all prompts "
                "first, so none can be drawn later; use recipe 'direct', or leave the target out"
            )
        if self.policy.n == 1 and "revision" not in self.pairs.sources:
            raise ValueError(
                "pairs.target: one reply a prompt gives no pair of samples; set policy.n to 2 or more, or add "
                "'revision' to pairs.sources"
            )

    @model_validator(mode="after")
    def _rounds_possible(self) -> RunConfig:
        if self.dpo is not None:
            others = [kind for kind in self.trained if kind not in ("sft", "dpo")]
            refuse_rounds(self.dpo, self.recipe, self.policy.n, others)
        return self

    @model_validator(mode="after")
    def _engines(self) -> RunConfig:
        if self.trained and self.models[self.policy.model].adapter is not None:
            raise ValueError(
                f"models.{self.policy.model}.adapter: training would start from the base without it; merge the "
                "adapter first and give the merged weights as 'model'"
            )
        inside = [name for name, model in self.models.items() if model.managed and model.managed.in_process]
        if self.ray and inside:
            raise ValueError(
                f"models.{inside[0]}.managed.in_process: Ray's workers are other processes; leave it out, or give "
                "the 'endpoints' of running servers"
            )
        return self

    @model_validator(mode="after")
    def _comparable(self) -> RunConfig:
        if self.evaluation_judge not in self.models:
            raise ValueError(
                f"evaluate.judge: {self.evaluation_judge!r} is not under 'models' ({', '.join(self.models)})"
            )
        policy = self.models[self.policy.model]
        if self.evaluate and self.evaluate.divergence and (policy.backend != "vllm" or policy.adapter):
            raise ValueError(
                "evaluate.divergence: loads the weights of the policy, a vllm model without adapter; leave it out"
            )
        known, seen = ("base", *self.policies), set[frozenset[str]]()
        for pair in self.compared:
            if unknown := [name for name in pair if name not in known]:
                raise ValueError(
                    f"evaluate.side_by_side: the run evaluates no model {unknown[0]!r}, only {', '.join(known)}"
                )
            if len(set(pair)) < 2 or frozenset(pair) in seen:
                raise ValueError(
                    f"evaluate.side_by_side: [{', '.join(pair)}] compares nothing new; name two models, each two once"
                )
            seen.add(frozenset(pair))
        return self

    @model_validator(mode="after")
    def _different_judges(self) -> RunConfig:
        seen: dict[tuple[str, Path, str | None], str] = {}
        for name in self.judge.judges:
            model = self.models[name]
            first = seen.setdefault((model.backend, Path(model.model), model.adapter), name)
            if first != name:
                raise ValueError(
                    f"{self.judge.kind}: {first!r} and {name!r} are one model ({model.backend} {model.model}), "
                    f"and would only repeat each other; take another model for {name!r}, or leave it out"
                )
        return self

    @property
    def trained(self) -> tuple[Kind, ...]:
        """What this run trains, in order."""
        return tuple(kind for kind in KINDS if self.section(kind) is not None)

    @property
    def rounds(self) -> int:
        """How many rounds of DPO this run has; 1 also where it has none."""
        return self.dpo.rounds if self.dpo else 1

    @property
    def trained_models(self) -> tuple[str, ...]:
        """The models that this run trains, in order: named like what trains them, with a number for rounds of DPO."""
        return models_of(self.trained, self.rounds)

    @property
    def policies(self) -> tuple[str, ...]:
        """Those of them that write replies, in order."""
        return models_of((kind for kind in self.trained if kind in POLICIES), self.rounds)

    @property
    def compared(self) -> tuple[tuple[str, str], ...]:
        """The pairs of models that the evaluation compares side by side; the first of a pair wins or loses."""
        pairs = self.evaluate.side_by_side if self.evaluate else False
        if not isinstance(pairs, bool):
            return pairs
        return tuple((kind, self.start_of(kind)) for kind in self.policies) if pairs else ()

    def start_of(self, model: str) -> str:
        """The evaluated model that a trained one starts from: of a later round of DPO the one of the round before.

        Else the SFT model where the run has one, else the base.
        """
        rounds = models_of(("dpo",), self.rounds)
        if model in rounds[1:]:
            return rounds[rounds.index(model) - 1]
        return "sft" if self.sft and kind_of(model) not in FROM_BASE else "base"

    @property
    def evaluation_judge(self) -> str:
        """The name of the model that grades and compares held-out replies."""
        chosen = self.evaluate.judge if self.evaluate else None
        return chosen or self.judge.judges[-1]

    def section(self, kind: Kind) -> TrainingConfig | None:
        """The section of a training; None where the run has none."""
        section: TrainingConfig | None = getattr(self, kind)
        return section

    @property
    def root(self) -> Path:
        """The folder of this run."""
        return Path(self.outputs) / self.name
