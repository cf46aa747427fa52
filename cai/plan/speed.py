"""What answers a run's calls, and how fast it did: tokens a second over the time in which a shard was asking.

Shards overlap, also those of different stages that ask one model, so the time of each model is the union of its
shards' times. A shard counts where its run made all its calls: one that was resumed tells no rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Literal

from cai.config import ModelConfig, RunConfig
from cai.models.cost import batch_discount, list_price
from cai.plan.need import Assumed, Engine
from cai.rounds import rounds_of
from cai.shard import read_manifest

GPU_ARGS = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")


def measured_rate(root: Path, stages: Iterable[str]) -> float | None:
    """Prompt and generated tokens a second, together, of the model that these stages ask; None where none is known."""
    tokens, times = 0, list[tuple[float, float]]()
    for stage in stages:
        for path in (root / stage).glob("manifest-*.json"):
            report = read_manifest(path)
            if report is None or not report.calls_made or report.calls_replayed:
                continue
            end = path.stat().st_mtime  # the manifest is the last file that a shard writes
            times.append((end - report.seconds, end))
            tokens += report.prompt_tokens + report.completion_tokens
    seconds = covered(times)
    return tokens / seconds if seconds > 0 else None


def covered(times: Iterable[tuple[float, float]]) -> float:
    """How long at least one of these intervals lasted."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(times):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def engine_of(config: RunConfig, name: str, stages: Iterable[str], assumed: Assumed) -> Engine:
    """What is known of what answers the model `name`. `stages`: those that ask it; a checkpoint's own do not count."""
    model = config.models[name]
    hosted, used = model.backend != "vllm", gpus_of(model)
    rate = None if hosted else assumed.rates.get(name, assumed.rates.get(""))
    origin: Literal["given", "measured"] | None = "given" if rate else None
    if (
        rate is None
        and (seen := measured_rate(config.root, set(stages) - _of_checkpoints(config))) is not None
    ):
        one = round(seen / used, 1)
        rate, origin = (one, one), "measured"
    return Engine(
        model=name,
        hosted=hosted,
        rate=rate,
        rate_from=origin,
        gpus=assumed.gpus.get(name, assumed.gpus.get("", used)),
        utilisation=assumed.utilisation if origin == "given" else 1.0,
        gpu_hour_usd=None if hosted else assumed.gpu_hour_usd,
        price=model.price or (list_price(model.model) if hosted else None),
        limits=model.limits,
        batch=model.mode == "batch",
        discount=batch_discount(model.backend) if model.mode == "batch" else 0.0,
    )


def _of_checkpoints(config: RunConfig) -> set[str]:
    """Stages that ask another checkpoint than the config's."""
    return {f"evaluate-{model}" for model in config.policies} | {one.generate for one in rounds_of(config)}


def gpus_of(model: ModelConfig) -> float:
    """How many GPUs a model is served on, as far as its config tells: of the managed server, or one an endpoint."""
    if model.managed is not None:
        return prod(float(model.managed.args.get(name, 1)) for name in GPU_ARGS)
    return float(max(1, len(model.endpoints)))
