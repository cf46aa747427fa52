"""Training sections of a run config: which trainings there are, and what each takes besides TRL's own options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cai.config.section import Section, Yaml

Kind = Literal["sft", "dpo", "kto", "orpo", "cpo", "reward", "rloo", "grpo"]


class TrainingConfig(Section):
    """One training stage. `args`: the trainer's own TRL option names and values. `lora`: peft's LoraConfig options."""

    args: Yaml = Field(default_factory=dict)
    lora: Yaml | None = None
    accelerate: Yaml = Field(default_factory=dict)


class DpoConfig(TrainingConfig):
    """DPO. `soft_labels` true: each row's calibrated p in the loss; a number: that p for all (conservative DPO)."""

    soft_labels: bool | Annotated[float, Field(gt=0.5, le=1)] = False


def section_type(kind: Kind) -> type[TrainingConfig]:
    """The model of a training's section."""
    return DpoConfig if kind == "dpo" else TrainingConfig
