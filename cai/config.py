"""The run config: everything that determines a run, as frozen models that refuse unknown keys.

The same models are the form that Prefect shows for a flow run; `cai.config_file` reads them from YAML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cai.rows import VerdictMethod

Yaml = dict[str, Any]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of runs and models: they become names of folders


class Section(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(Section):
    """Where prompts come from: a file, or a dataset of the Hugging Face hub.

    `format`: guessed from the file name when None; `transcript` means hh-rlhf style text in `field`
    (turns kept; a last assistant turn is cut off, so that the last human turn is the one to answer).
    `field`: column that holds the prompt text, the messages list or the transcript.
    """

    path: str | None = None
    dataset: str | None = None
    split: str = "train"
    format: Literal["jsonl", "csv", "parquet", "text"] | None = None
    field: str | None = None
    transcript: bool = False
    tags: tuple[str, ...] = ()
    only_tags: tuple[str, ...] = ()
    limit: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_origin(self) -> SourceConfig:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give exactly one of 'path' (a file) and 'dataset' (a hub dataset)")
        return self


class PriceConfig(Section):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)


class ManagedConfig(Section):
    """A vLLM server that the run starts and stops. `args`: vLLM's own flags, without the leading dashes."""

    args: dict[str, str | int | float | bool] = {}
    env: dict[str, str] = {}
    start_timeout_s: float = Field(900, gt=0)


class ModelConfig(Section):
    """A model and how to reach it.

    `model`: the provider's name for it, or a local folder with weights. `endpoint`: base URL of an
    OpenAI-compatible server (vllm) or of a proxy (openai, anthropic). `api_key_env`: name of the
    environment variable that holds the key, never the key itself. `logprobs` false: the model gives none,
    so as a judge it states its confidence.
    """

    backend: Literal["vllm", "openai", "anthropic"]
    model: str
    endpoint: str | None = None
    managed: ManagedConfig | None = None
    api_key_env: str | None = None
    max_concurrency: int = Field(64, ge=1)
    timeout_s: float = Field(300, gt=0)
    deadline_s: float = Field(900, gt=0)
    logprobs: bool = True
    price: PriceConfig | None = None

    @model_validator(mode="after")
    def _reachable(self) -> ModelConfig:
        if self.backend == "vllm" and (self.endpoint is None) == (self.managed is None):
            raise ValueError("a vllm model needs exactly one of 'endpoint' (a running server) and 'managed'")
        if self.backend != "vllm" and self.managed is not None:
            raise ValueError(f"'managed' starts a vLLM server; backend is {self.backend!r}")
        return self


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
    """

    sources: tuple[Literal["samples", "revision"], ...] = Field(("samples", "revision"), min_length=1)
    reply_tags: tuple[str, ...] | None = None


class TrainingConfig(Section):
    """One training stage. `args`: the trainer's own TRL option names and values. `lora`: peft's LoraConfig options."""

    args: Yaml = {}
    lora: Yaml | None = None
    accelerate: Yaml = {}


class EvaluateConfig(Section):
    """Held-out prompts and who grades the replies: the embedded world's exact rules, or the run's judge."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    grader: Literal["embedded", "judge"]
    sampling: SamplingConfig = SamplingConfig()


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
    dpo: TrainingConfig | None = None
    evaluate: EvaluateConfig | None = None

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
        if self.recipe == "paper" and (self.sft is None or self.dpo is None):
            raise ValueError(
                "recipe 'paper' samples from the SFT model, so it needs both 'sft' and 'dpo' sections"
            )
        policy = self.models[self.policy.model]
        if (self.sft or self.dpo) and policy.backend != "vllm":
            raise ValueError("sft/dpo train the policy's weights; give the policy a vllm model, or drop both")
        if (self.sft or self.dpo) and (self.evaluate or self.recipe == "paper") and policy.managed is None:
            raise ValueError(
                f"models.{self.policy.model}: a trained policy is served again, to be sampled or evaluated; "
                "give it 'managed' instead of 'endpoint'"
            )
        if taken := {"sft", "dpo"} & set(self.models):
            raise ValueError(
                f"models: the name {min(taken)!r} is kept for the trained policy; choose another"
            )
        return self

    @model_validator(mode="after")
    def _different_judges(self) -> RunConfig:
        seen: dict[tuple[str, Path], str] = {}
        for name in self.judge.judges:
            model = self.models[name]
            first = seen.setdefault((model.backend, Path(model.model)), name)
            if first != name:
                raise ValueError(
                    f"{self.judge.kind}: {first!r} and {name!r} are one model ({model.backend} {model.model}), "
                    f"and would only repeat each other; take another model for {name!r}, or leave it out"
                )
        return self

    @property
    def root(self) -> Path:
        """The folder of this run."""
        return Path(self.outputs) / self.name
