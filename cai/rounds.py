"""Rounds of DPO: whom each samples, what its stages and its part of the dataset are called, and what it replays.

Of the recipe `paper` alone. The first round is the recipe itself: the SFT model's samples (`sft-generate`,
`sft-judge`, `pairs`, part `preference`). Each later one does the same with the model of the round before, which it
is trained from (`dpo-1-generate`, `dpo-1-judge`, `dpo-1-pairs`, part `preference-2`), and may replay earlier pairs
(`dpo-1-replay`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cai.config import RunConfig
from cai.config.training import models_of
from cai.models.base import derive_seed
from cai.rows import Prompt

_SAMPLES = re.compile(r"(sft|dpo-[1-9][0-9]*)-generate")
_SEEDS = 2**63  # `derive_seed` draws below it


class Round(NamedTuple):
    """One round, from 1: `model` is trained on samples of `sampled`."""

    number: int
    sampled: str
    model: str

    @property
    def generate(self) -> str:
        """The stage in which the policy is sampled."""
        return f"{self.sampled}-generate"

    @property
    def judge(self) -> str:
        """The stage in which its samples are judged."""
        return f"{self.sampled}-judge"

    @property
    def pairs(self) -> str:
        """The stage of the round's own pairs."""
        return "pairs" if self.number == 1 else f"{self.sampled}-pairs"

    @property
    def replay(self) -> str:
        """The stage of the pairs of earlier rounds that it learns from again."""
        return f"{self.sampled}-replay"

    @property
    def part(self) -> str:
        """The part of the dataset that it learns from."""
        return "preference" if self.number == 1 else f"preference-{self.number}"

    @property
    def mark(self) -> str:
        """What stands behind the ids of its prompts; no id of a prompt has an @."""
        return "" if self.number == 1 else f"@{self.number}"


def rounds_of(config: RunConfig) -> tuple[Round, ...]:
    """The rounds of a run, in order; none with the recipe `direct`, which samples no trained policy.

    A run of the recipe `paper` without DPO has the first one for what else learns from its pairs.
    """
    return rounds_in(config.rounds) if config.recipe == "paper" else ()


def rounds_in(count: int) -> tuple[Round, ...]:
    """So many rounds, in order."""
    models = models_of(("dpo",), count)
    sampled = ("sft", *models)
    return tuple(Round(number, sampled[number - 1], model) for number, model in enumerate(models, 1))


def round_of(config: RunConfig, stage: str) -> Round | None:
    """The round to which a stage of samples, pairs or replayed pairs belongs; None for any other stage."""
    return next((one for one in rounds_of(config) if stage in (one.generate, one.pairs, one.replay)), None)


def sampled_model(stage: str) -> str | None:
    """The trained policy that a stage samples for pairs; None for any other stage."""
    found = _SAMPLES.fullmatch(stage)
    return found and found[1]


def learns_from(config: RunConfig, model: str) -> str:
    """The part of the dataset that a model is trained on; what is no round of DPO takes the first round's pairs."""
    parts = {one.model: one.part for one in rounds_of(config)}
    return "sft" if model == "sft" else parts.get(model, "preference")


def stages_of(config: RunConfig, part: str) -> tuple[str, ...]:
    """The stages whose rows make up a part of the dataset, in order."""
    if part == "sft":
        return ("demonstrations",)
    if part == "stepwise":
        return ("stepwise",)
    one = next((one for one in rounds_of(config) if one.part == part), None)
    if one is None or one.number == 1:
        return ("pairs",)
    return (one.pairs, one.replay) if config.dpo and config.dpo.replay else (one.pairs,)


def plays_itself(config: RunConfig) -> bool:
    """True where samples are set against demonstrations, and no judge is asked about them."""
    return config.recipe == "paper" and config.dpo is not None and config.dpo.self_play


def asked_in(prompt: Prompt, one: Round) -> Prompt:
    """A prompt as a round asks it: from the second round on under an id of its own, as in `p@2`.

    Ids decide seeds and draws, so each round samples afresh and meets other principles, and no two pairs share one.
    """
    return prompt.model_copy(update={"id": f"{prompt.id}{one.mark}"}) if one.mark else prompt


def is_replayed(seed: int, row_id: str, number: int, share: float) -> bool:
    """Whether round `number` learns again from a pair of an earlier one; the other pairs have no part in it."""
    return derive_seed(seed, row_id, "replay", number) < share * _SEEDS
