"""Training sections of a run config: which trainings there are, and what each takes besides TRL's own options."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from cai.config.section import Section, Yaml

Kind = Literal["sft", "dpo", "kto", "orpo", "cpo", "reward", "rloo", "grpo"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # in the order in which a run trains them
POLICIES: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "reward")  # what writes replies
REWARDED: tuple[Kind, ...] = ("rloo", "grpo")  # what optimizes the scores of the reward model
FROM_BASE: tuple[Kind, ...] = ("sft", "orpo")  # what never starts from the SFT model
ABSENT = {  # trainings that users ask for and TRL 1.16 does not have
    "ppo": "TRL 1.16 has no PPO; 'rloo' and 'grpo' train against the same 'reward' model, with KL to the reference",
    "simpo": "SimPO is a loss of CPO; write cpo: {args: {loss_type: simpo}}",
    "ipo": "IPO is a loss of DPO; write dpo: {args: {loss_type: ipo}}",
    "rpo": "RPO is a mix of DPO's losses; write dpo: {args: {loss_type: [sigmoid, sft], loss_weights: [1.0, 0.2]}}",
}


class TrainingConfig(Section):
    """One training stage. `args`: the trainer's own TRL option names and values. `lora`: peft's LoraConfig options."""

    args: Yaml = Field(default_factory=dict)
    lora: Yaml | None = None
    accelerate: Yaml = Field(default_factory=dict)


class DpoConfig(TrainingConfig):
    """DPO. `soft_labels` true: each row's calibrated p in the loss; a number: that p for all (conservative DPO)."""

    soft_labels: bool | float = False

    @field_validator("soft_labels")
    @classmethod
    def _probability(cls, soft: bool | float) -> bool | float:
        if not isinstance(soft, bool) and not 0.5 < soft <= 1:
            raise ValueError("give a number above 0.5 and up to 1, or true for each row's own p")
        return soft


def section_type(kind: Kind) -> type[TrainingConfig]:
    """The model of a training's section."""
    return DpoConfig if kind == "dpo" else TrainingConfig


def refuse_absent(config: Any) -> None:
    """Raise ValueError for a section of a training that goes by another name, or that TRL does not have."""
    if isinstance(config, dict):
        for name, fix in ABSENT.items():
            if name in config:
                raise ValueError(f"{name}: {fix}")
