"""The run config: everything that determines a run, as frozen models that refuse unknown keys.

The same models are the form that Prefect shows for a flow run; `cai.config_file` reads them from YAML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cai.config.budget import BudgetConfig
from cai.config.consistent import CHECKS
from cai.config.models import Address, LimitsConfig, ManagedConfig, ModelConfig, PriceConfig
from cai.config.prompts import EvaluateConfig, SourceConfig
from cai.config.roles import CriticConfig, JudgeConfig, PairsConfig, PolicyConfig, SamplingConfig
from cai.config.section import Section, Yaml
from cai.config.stepwise import StepwiseConfig
from cai.config.training import (
    FROM_BASE,
    KINDS,
    POLICIES,
    DpoConfig,
    Kind,
    TrainingConfig,
    kind_of,
    models_of,
    refuse_absent,
)

__all__ = [
    "BudgetConfig",
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
    "StepwiseConfig",
    "TrainingConfig",
    "Yaml",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of runs and models: they become names of folders


class RayConfig(Section):
    """Where shards run when one process is outgrown. `address`: of a running Ray cluster; null: started here."""

    workers: int = Field(2, ge=1)
    address: Address | None = None


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
    stepwise: StepwiseConfig | None = None
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
    budget: BudgetConfig | None = None

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
                    "at most 100, and begin with a letter or digit"
                )
        return models

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        for check in CHECKS:
            check(self)
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

    @property
    def step_judge(self) -> str:
        """The name of the model that judges the steps of replies."""
        chosen = self.stepwise.judge if self.stepwise else None
        return chosen or self.judge.judges[-1]

    def section(self, kind: Kind) -> TrainingConfig | None:
        """The section of a training; None where the run has none."""
        section: TrainingConfig | None = getattr(self, kind)
        return section

    @property
    def root(self) -> Path:
        """The folder of this run."""
        return Path(self.outputs) / self.name
