"""Training sections of a run config: which trainings there are, and what each takes besides TRL's own options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from cai.config.keys import check_no_secret
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
    "spin": "SPIN is DPO in self-play; write dpo: {self_play: true, rounds: 3}",
}
MEASURED = "measured"  # the value of `label_smoothing` that stands for the flip rate of the run's own judge
_ROUND = re.compile(r"dpo-[1-9][0-9]*")  # the model of a round that is not the last one


class TrainingConfig(Section):
    """One training stage. `args`: the trainer's own TRL option names and values. `lora`: peft's LoraConfig options."""

    args: Yaml = Field(default_factory=dict)
    lora: Yaml | None = None
    accelerate: Yaml = Field(default_factory=dict)

    @field_validator("args")
    @classmethod
    def _no_secret(cls, args: Yaml) -> Yaml:
        check_no_secret({name: args[name] for name in args if "hub" in name}, "export it as HF_TOKEN")
        return args


class DpoConfig(TrainingConfig):
    """DPO. `soft_labels` true: each row's calibrated p in the loss; a number: that p for all (conservative DPO).

    `rounds`: how often the policy that came of it so far is sampled and judged afresh, and trained on (iterative
    DPO). `replay`: the share of the pairs of earlier rounds that a round learns from again. `self_play`: the
    demonstrations are preferred to the policy's own samples, and no judge is asked which is better (SPIN).
    """

    soft_labels: bool | float = False
    rounds: int = Field(1, ge=1)
    replay: float = Field(0.0, ge=0, le=1)
    self_play: bool = False

    @field_validator("soft_labels")
    @classmethod
    def _probability(cls, soft: bool | float) -> bool | float:
        if not isinstance(soft, bool) and not 0.5 < soft <= 1:
            raise ValueError("give a number above 0.5 and up to 1, or true for each row's own p")
        return soft

    @model_validator(mode="after")
    def _possible(self) -> DpoConfig:
        if self.replay and self.rounds == 1:
            raise ValueError(
                f"replay: {self.replay:g}: the first round has no earlier one; set rounds to 2 or more, or leave it out"
            )
        if self.self_play and self.soft_labels is True:
            raise ValueError(
                "soft_labels: true: no pair of self_play has a p, for nobody judges it; give one number for all pairs, "
                "or leave one of the two out"
            )
        if self.self_play and self.args.get("label_smoothing") == MEASURED:
            raise ValueError(
                f"args.label_smoothing: {MEASURED}: no pair of self_play has a judge's label, whose flips could be "
                "measured; give a number, or leave one of the two out"
            )
        return self


def models_of(kinds: Iterable[Kind], rounds: int) -> tuple[str, ...]:
    """The models that trainings leave, in order; DPO leaves one a round: `dpo-1`, `dpo-2` …, the last one is `dpo`."""
    dpo = (*(f"dpo-{number}" for number in range(1, rounds)), "dpo")
    return tuple(model for kind in kinds for model in (dpo if kind == "dpo" else (kind,)))


def kind_of(model: str) -> Kind:
    """The training that leaves the model of this name."""
    return next(kind for kind in KINDS if kind == model or (kind == "dpo" and _ROUND.fullmatch(model)))


def evaluated(names: Iterable[str]) -> list[str]:
    """The base and the trained policies among `names`, in the order of a run."""
    places: dict[str, tuple[int, float]] = {"base": (-1, 0)}
    places |= {kind: (place, float("inf")) for place, kind in enumerate(POLICIES)}
    for name in set(names):
        if _ROUND.fullmatch(name):
            places[name] = (POLICIES.index("dpo"), int(name.rpartition("-")[2]))
    return sorted(set(names).intersection(places), key=lambda name: places[name])


def refuse_rounds(dpo: DpoConfig, recipe: str, samples: int, others: Sequence[Kind]) -> None:
    """Raise ValueError for rounds or self-play that a run cannot have.

    `samples`: replies a prompt; `others`: what else the run trains on pairs.
    """
    for option, given in (("rounds", dpo.rounds > 1 and dpo.rounds), ("self_play", dpo.self_play)):
        if given and recipe != "paper":
            raise ValueError(
                f"dpo.{option}: {str(given).lower()}: samples the trained policy, which recipe {recipe!r} never does; "
                "set recipe: paper, or leave it out"
            )
    if dpo.rounds > 1 and not dpo.self_play and samples == 1:
        raise ValueError(
            f"dpo.rounds: {dpo.rounds}: a round judges samples of one prompt against each other, and policy.n is 1; "
            "set it to 2 or more"
        )
    if dpo.self_play and others:
        raise ValueError(
            f"{others[0]}: learns from judged pairs, and with dpo.self_play there are none; leave one of the two out"
        )


def section_type(kind: Kind) -> type[TrainingConfig]:
    """The model of a training's section."""
    return DpoConfig if kind == "dpo" else TrainingConfig


def refuse_absent(config: Any) -> None:
    """Raise ValueError for a section of a training that goes by another name, or that TRL does not have."""
    if isinstance(config, dict):
        for name, fix in ABSENT.items():
            if name in config:
                raise ValueError(f"{name}: {fix}")
