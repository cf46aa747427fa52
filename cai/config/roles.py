"""What the models of a run config are used for: policy, critic and judge, and what becomes training data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cai.config.section import Section
from cai.rows import VerdictMethod


class SamplingConfig(Section):
    """How a role samples. `temperature`/`top_p` null: the provider's default (Anthropic takes nothing else)."""

    temperature: float | None = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)


class PolicyConfig(Section):
    """Who answers the prompts: `n` replies for each, under an optional system prompt."""

    model: str
    sampling: SamplingConfig = SamplingConfig()
    n: int = Field(2, ge=1)
    system_prompt: str | None = None


class CriticConfig(Section):
    """Who critiques and revises: `rounds` principles drawn for the first reply of each prompt."""

    model: str
    sampling: SamplingConfig = SamplingConfig()
    rounds: int = Field(1, ge=1)
    stop_when_clean: bool = True


class JudgeConfig(Section):
    """Who labels preferences: both orders for each of `principles` drawn principles, kept from a threshold on.

    One of `model` (one judge), `jury` (all of them judge, their log-odds are pooled) and `cascade` (the first
    judges; the next is asked only where the one before gave no label). `method`: how p is got, from the
    `logprobs` of a one-token answer, a `stated` confidence, or the share among `samples` sampled answers; null:
    logprobs where the model gives them, else stated. `reasoning`: the judge thinks in words before it answers.
    `threshold`: smallest max(p, 1-p) of a label that is kept. `target_accuracy`: choose the threshold on the
    rows of `calibration` so that kept labels are right at least this often, with the probability `risk` of
    breaking that promise. `calibration`: file from `cai judge calibrate`, for this very judge. `labelled`: pairs
    with a known better reply (default: the constitution's tests), on which `require_qualification` has the judge
    checked before it may label. `clamp`: largest p that a label carries into the dataset.
    """

    model: str | None = None
    jury: tuple[str, ...] = ()
    cascade: tuple[str, ...] = ()
    sampling: SamplingConfig = SamplingConfig(temperature=0.0)
    principles: int = Field(1, ge=1)
    method: VerdictMethod | None = None
    samples: int = Field(5, ge=2)
    reasoning: bool = False
    threshold: float = Field(0.7, ge=0.5, le=1.0)
    target_accuracy: float | None = Field(None, gt=0.5, lt=1)
    risk: float = Field(0.1, gt=0, lt=0.5)
    calibration: str | None = None
    labelled: str | None = None
    require_qualification: bool = False
    clamp: float | None = Field(None, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _who(self) -> JudgeConfig:
        if sum(map(bool, (self.model, self.jury, self.cascade))) != 1:
            raise ValueError("give exactly one of 'model', 'jury' and 'cascade'")
        for name in ("jury", "cascade"):
            members = getattr(self, name)
            if members and (len(members) < 2 or len(set(members)) < len(members)):
                raise ValueError(f"{name}: {list(members)} needs two or more different models")
        if self.target_accuracy is not None and self.calibration is None:
            raise ValueError("target_accuracy is chosen on labelled rows; give 'calibration'")
        return self

    @property
    def kind(self) -> str:
        """The key that names the judges."""
        return "judge.model" if self.model else "judge.jury" if self.jury else "judge.cascade"

    @property
    def judges(self) -> tuple[str, ...]:
        """The names of all judging models, in order."""
        return (self.model,) if self.model else self.jury or self.cascade


class PairsConfig(Section):
    """What becomes training data.

    `sources`: which pairs are judged for DPO: two samples of a policy, a reply and its revision.
    `reply_tags`: replies that no critique faulted become SFT demonstrations for prompts with these tags; null: all.
    `target`: draw prompts, in their order, until exactly so many preference pairs are there; null: all prompts.
    """

    sources: tuple[Literal["samples", "revision"], ...] = Field(("samples", "revision"), min_length=1)
    reply_tags: tuple[str, ...] | None = None
    target: int | None = Field(None, ge=1)
