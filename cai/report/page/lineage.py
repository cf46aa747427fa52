"""Where a run's data comes from and what it took, as facts under a heading each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cai import __version__
from cai.config import RunConfig, SamplingConfig
from cai.constitution import Constitution
from cai.models.metrics import engine_lines
from cai.report.tables import cost_cell, thousands
from cai.sources.records import origin


def figures_of(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers that stand at the top: a value and what it counts."""
    stages, total = status["stages"], status["total"]
    counts = [("prompts", stages.get("prompts", {}).get("rows_out"))]
    counts += [
        ("preference pairs", status["dataset"].get("preference")),
        ("SFT rows", status["dataset"].get("sft")),
    ]
    counts += [("model calls", total["calls"])]
    found = [(f"{count:,}", title) for title, count in counts if count is not None]
    found += [
        (f"{thousands(total['prompt_tokens'])} / {thousands(total['completion_tokens'])}", "tokens in / out")
    ]
    found += [("unknown" if total["cost"] is None else f"${cost_cell(total['cost'])}", "cost")]
    return found + ([(_time(status["seconds"]), "wall time")] if status["seconds"] else [])


def lineage_of(
    config: RunConfig, status: Mapping[str, Any], constitution: Constitution
) -> Iterator[tuple[str, list[str]]]:
    """Title and lines of each fact; what the run did not record is left out."""
    state = status["state"] + (f", in {_time(status['seconds'])}" if status["seconds"] else "")
    yield (
        "run",
        [f"{status['run']}: {state}; recipe {config.recipe}, seed {config.seed}, {config.shards} shards"],
    )
    principles = f"{constitution.name} {constitution.version}, {len(constitution.principles)} principles"
    yield "constitution", [f"{principles}, from {config.constitution}", f"digest {constitution.digest}"]
    yield "prompts", [_source(source) for source in config.prompts]
    if config.evaluate is not None:
        yield "held-out prompts", [_source(source) for source in config.evaluate.sources]
    yield "models", list(_models(config))
    if status["training"]:
        yield "trained", [_trained(model, report) for model, report in status["training"].items()]
    if status["engines"]:
        yield "engines", [f"Engine {line}" for line in engine_lines(status["engines"])]
    versions = dict(status["versions"])
    for report in status["training"].values():
        versions |= report.get("versions") or {}
    found = [", ".join(f"{name} {version}" for name, version in versions.items())] if versions else []
    yield "versions", [*found, f"this page: cai {__version__}"]


def _models(config: RunConfig) -> Iterator[str]:
    roles = [("policy", config.policy.model, config.policy.sampling)]
    roles += [("critic", config.critic.model, config.critic.sampling)]
    roles += [("judge", name, config.judge.sampling) for name in config.judge.judges]
    for role, name, sampling in roles:
        model = config.models[name]
        yield f"{role}: {model.model} ({model.backend}; {_sampling(sampling)})"


def _sampling(sampling: SamplingConfig) -> str:
    """How replies are sampled; what is not set is the model's own, and some models take nothing else."""
    parts = [] if sampling.temperature is None else [f"temperature {sampling.temperature:g}"]
    parts += [] if sampling.top_p is None else [f"top_p {sampling.top_p:g}"]
    return ", ".join([*parts, f"at most {sampling.max_tokens} tokens"])


def _source(source: Any) -> str:
    parts = [origin(source)]
    parts += [f"split {source.split}"] if source.dataset else []
    parts += [f"tags {', '.join(source.tags)}"] if source.tags else []
    parts += [f"the first {source.limit:,}"] if source.limit else []
    return ", ".join(parts)


def _trained(model: str, report: Mapping[str, Any]) -> str:
    data, start = report["data_sha256"][:12], report["model_digest"][:12]
    return f"{model}: on data {data}, from model {start}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )
