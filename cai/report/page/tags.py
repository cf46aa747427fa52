"""Results by the tags of the prompts: what their replies came to, and how the models do on held-out ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from cai.config import RunConfig
from cai.evaluate.grade import METRIC_OF_TAG, Graded
from cai.intervals import rate
from cai.pipeline import read_stage
from cai.report.page.scan import Scan
from cai.report.status import shard_reports
from cai.report.tables import METRICS, percent

SHOWN = 15  # tags a table


def tags_view(config: RunConfig, found: Scan, models: Sequence[str]) -> dict[str, Any] | None:
    """Rows of both tables, the largest tags first, and how many more there are; None where no prompt has a tag."""
    of = found.tags
    sizes: Counter[str] = Counter()
    for (tag, what), count in of.items():
        if what in ("replies", "comparisons"):
            sizes[tag] += count
    data = [[tag, *_cells(of, tag)] for tag, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))]
    held_out = _held_out(config, models)
    if not data and not held_out:
        return None
    return {
        "data": data[:SHOWN], "more_data": len(data[SHOWN:]), "models": models,
        "held_out": held_out[:SHOWN], "more_held_out": len(held_out[SHOWN:]),
    }  # fmt: skip


def _cells(of: Counter[tuple[str, Any]], tag: str) -> list[str]:
    """Replies, with a violation, changed, judged, better, comparisons, labels; shares with their interval."""
    replies, judged, comparisons = of[tag, "replies"], of[tag, "judged"], of[tag, "comparisons"]
    return [
        f"{replies:,}",
        _rate(of[tag, "violated"], replies),
        _rate(of[tag, "changed"], replies),
        f"{judged:,}",
        _rate(of[tag, "better"], judged),
        _rate(of[tag, "worse"], judged),
        f"{comparisons:,}",
        _rate(of[tag, "labels"], comparisons),
    ]


def _held_out(config: RunConfig, models: Sequence[str]) -> list[list[str]]:
    """Tag, metric and a rate for each model; none where tags only name the metric: that table is there already."""
    held: Counter[tuple[str, str, str]] = Counter()
    total: Counter[tuple[str, str, str]] = Counter()
    for model in models:
        for row in _graded(config, model):
            for tag in set(row.reply.prompt.tags) - METRIC_OF_TAG.keys():
                total[tag, row.metric, model] += 1
                held[tag, row.metric, model] += row.holds
    keys = sorted({(tag, metric) for tag, metric, _ in total})
    return [
        [tag, METRICS[metric], *(_rate(held[tag, metric, name], total[tag, metric, name]) for name in models)]
        for tag, metric in keys
    ]


def _graded(config: RunConfig, model: str) -> Iterable[Graded]:
    stage = f"grade-{model}"
    return read_stage(config, stage, Graded) if shard_reports(config.root, stage) else ()


def _rate(part: int, whole: int) -> str:
    found = rate(part, whole)
    return percent({"rate": found.rate, "low": found.low, "high": found.high})
