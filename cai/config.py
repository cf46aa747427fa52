"""The run config: one YAML file, validated in full before anything runs, stored with the run.

Unknown keys, wrong types and impossible combinations are ConfigErrors that name file, line, key and,
for a typing slip, the nearest known key. The pydantic models double as the form that Prefect shows.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cai.errors import ConfigError

Yaml = dict[str, Any]


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
    environment variable that holds the key, never the key itself.
    """

    backend: Literal["vllm", "openai", "anthropic"]
    model: str
    endpoint: str | None = None
    managed: ManagedConfig | None = None
    api_key_env: str | None = None
    max_concurrency: int = Field(64, ge=1)
    timeout_s: float = Field(300, gt=0)
    deadline_s: float = Field(900, gt=0)
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
    """Who labels preferences: both orders for each of `principles` drawn principles, kept from `threshold` on.

    `threshold`: smallest max(p, 1-p) of a label that is kept.
    """

    model: str
    sampling: SamplingConfig = SamplingConfig(temperature=0.0)
    principles: int = Field(1, ge=1)
    threshold: float = Field(0.7, ge=0.5, le=1.0)


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

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
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

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        for role in ("policy", "critic", "judge"):
            name = getattr(self, role).model
            if name not in self.models:
                raise ValueError(f"{role}.model: {name!r} is not under 'models' ({', '.join(self.models)})")
        if self.recipe == "paper" and (self.sft is None or self.dpo is None):
            raise ValueError("recipe 'paper' samples from the SFT model, so it needs both 'sft' and 'dpo' sections")
        if (self.sft or self.dpo or self.recipe == "paper") and self.models[self.policy.model].backend != "vllm":
            raise ValueError("sft/dpo train the policy's weights; give the policy a vllm model, or drop sft and dpo")
        return self

    @property
    def root(self) -> Path:
        """The folder of this run."""
        return Path(self.outputs) / self.name


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a run config; `overrides` are `dotted.key=value` with YAML values.

    Raises ConfigError with `file:line: key: problem` for whatever is wrong in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file; start from one in flows/configs/")
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a YAML mapping, this is {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    return validate_config(data, str(path), tree)


def validate_config(data: Mapping[str, Any], origin: str, tree: yaml.Node | None = None) -> RunConfig:
    """Build a RunConfig from plain data; the first problem found is raised as one ConfigError line."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
        loc = tuple(part for part in first["loc"])
        key = ".".join(str(part) for part in loc) or "(top level)"
        line = _line_of(tree, loc)
        where = f"{origin}:{line}" if line else origin
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(loc[-1]), _known_keys(loc[:-1]), n=1)
            problem = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
        elif first["type"] == "missing":
            problem = "this key is required"
        elif not problem.startswith("give ") and first["type"] != "value_error":
            problem = f"{problem} (got {first['input']!r})"
        raise ConfigError(f"{where}: {key}: {problem}") from error


def _override(data: Yaml, override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: write it as dotted.key=value")
    *parents, last = key.split(".")
    node: Any = data
    for part in parents:
        node = node[int(part)] if isinstance(node, list) and part.isdigit() else node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"--set {override}: {part!r} is not a section")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    if isinstance(node, list):
        node[int(last)] = parsed
    else:
        node[last] = parsed


def _line_of(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int | None:
    """Line (from 1) of the deepest part of `loc` that the document holds."""
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            hit = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if hit is None:
                return line or node.start_mark.line + 1
            line, node = hit[0].start_mark.line + 1, hit[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the section at `loc`, found by walking the JSON Schema."""
    schema = RunConfig.model_json_schema()
    node: Any = schema
    for part in loc:
        node = _resolve(schema, node)
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
    return list(_resolve(schema, node).get("properties", {}))


def _resolve(schema: Yaml, node: Any) -> Any:
    for option in node.get("anyOf", []):
        if "$ref" in option or option.get("type") in ("object", "array"):
            node = option
            break
    return schema["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
