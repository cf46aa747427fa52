"""From graded replies to the run's evaluation: rates by model and metric, and what training changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from cai.config import RunConfig
from cai.evaluate.divergence import Divergence
from cai.evaluate.grade import METRIC_OF_TAG, Graded, rates
from cai.evaluate.guards import Replies, compare, describe, draw
from cai.evaluate.side_by_side import side_by_side
from cai.intervals import difference
from cai.pipeline import read_stage
from cai.report.status import shard_reports, summed
from cai.rows import Reply
from cai.store import write_json


def write_evaluation(
    config: RunConfig, models: list[str], moved: Mapping[str, Divergence] = MappingProxyType({})
) -> dict[str, Any]:
    """Write `evaluation.json`: {model: {metric: {rate, low, high, n}, unscored: {reason: n}, replies: …}, changes: …}.

    `changes` compares each trained model with the base on the prompts that both were graded on. `replies`: how its
    replies read (`cai.evaluate.guards.Replies`). `models` begins with the base. `moved`: what each model's
    `divergence` is, where it was measured. Where the config has models compared there is `side_by_side` too, by the
    name of the pair (`cai.evaluate.side_by_side.SideBySide`).
    """
    graded = {name: list(read_stage(config, f"grade-{name}", Graded)) for name in models}
    replies = _replies(config, models)
    found: dict[str, Any] = {}
    for name, rows in graded.items():
        unscored: Counter[str] = Counter()
        for stage in ("evaluate", "grade"):
            unscored.update(_totals(config, f"{stage}-{name}")["drops"])
        found[name] = {metric: asdict(rate) for metric, rate in rates(rows).items()}
        found[name] |= {"unscored": dict(unscored), "replies": replies[name].model_dump(mode="json")}
        if name in moved:
            found[name]["divergence"] = moved[name].model_dump(mode="json")
    found["changes"] = {
        name: {metric: _change(graded["base"], graded[name], metric) for metric in METRIC_OF_TAG.values()}
        for name in models
        if name != "base"
    }
    if config.compared:
        pairs = side_by_side(config)
        found["side_by_side"] = {name: pair.model_dump(mode="json") for name, pair in pairs.items()}
    write_json(config.root / "evaluation.json", found)
    return found


def _replies(config: RunConfig, models: list[str]) -> dict[str, Replies]:
    """How each model's replies read, the trained ones' compared with the base's."""
    found: dict[str, Replies] = {}
    base_texts: dict[str, str] = {}
    for name in models:
        texts = draw(read_stage(config, f"evaluate-{name}", Reply), config.seed)
        totals = _totals(config, f"evaluate-{name}")
        found[name] = describe(texts, totals["drops"].get("truncated", 0), totals["rows_in"])
        if name == "base":
            base_texts = texts
        else:
            found[name] = compare(found[name], found["base"], texts, base_texts)
    return found


def _totals(config: RunConfig, stage: str) -> dict[str, Any]:
    return summed(shard_reports(config.root, stage))


def _change(base: list[Graded], trained: list[Graded], metric: str) -> dict[str, Any]:
    before = {row.id: row.holds for row in base if row.metric == metric}
    after = {row.id: row.holds for row in trained if row.metric == metric}
    both = [key for key in before if key in after]
    return asdict(difference([after[key] for key in both], [before[key] for key in both]))
