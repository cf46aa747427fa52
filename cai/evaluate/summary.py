"""From graded replies to the run's evaluation: rates by model and metric, and what training changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cai.config import RunConfig
from cai.evaluate.grade import METRIC_OF_TAG, Graded, rates
from cai.intervals import difference
from cai.pipeline import read_stage
from cai.report.status import shard_reports, summed
from cai.store import write_json


def write_evaluation(config: RunConfig, models: list[str]) -> dict[str, Any]:
    """Write `evaluation.json`: {model: {metric: {rate, low, high, n}, unscored: {reason: n}}, changes: …}.

    `changes` compares each trained model with the base on the prompts that both were graded on.
    """
    graded = {name: list(read_stage(config, f"grade-{name}", Graded)) for name in models}
    found: dict[str, Any] = {}
    for name, rows in graded.items():
        dropped = [
            summed(shard_reports(config.root, f"{stage}-{name}"))["drops"] for stage in ("evaluate", "grade")
        ]
        unscored = {reason: count for drops in dropped for reason, count in drops.items()}
        found[name] = {metric: asdict(rate) for metric, rate in rates(rows).items()} | {"unscored": unscored}
    found["changes"] = {
        name: {metric: _change(graded["base"], graded[name], metric) for metric in METRIC_OF_TAG.values()}
        for name in models
        if name != "base"
    }
    write_json(config.root / "evaluation.json", found)
    return found


def _change(base: list[Graded], trained: list[Graded], metric: str) -> dict[str, Any]:
    before = {row.id: row.holds for row in base if row.metric == metric}
    after = {row.id: row.holds for row in trained if row.metric == metric}
    both = [key for key in before if key in after]
    return asdict(difference([after[key] for key in both], [before[key] for key in both]))
