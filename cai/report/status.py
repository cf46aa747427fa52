"""What a run has done so far, read from its folder alone: the same numbers in every report, table and artifact."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from cai.errors import ConfigError
from cai.shard import ShardReport, read_manifest

MODELS = ("base", "sft", "dpo")
STAGES = ("prompts", "generate", "revise", "judge", "sft-generate", "sft-judge", "pairs", "demonstrations")


def shard_reports(root: Path, stage: str) -> list[ShardReport]:
    """The manifests of a stage's finished shards, in order."""
    found = (read_manifest(path) for path in sorted((root / stage).glob("manifest-*.json")))
    return [report for report in found if report is not None]


def summed(reports: list[ShardReport]) -> dict[str, Any]:
    """Rows, drops by reason, calls, tokens and cost (US dollars; None where a price is unknown) over shards."""
    drops: Counter[str] = Counter()
    for report in reports:
        drops.update(report.drops)
    costs = [report.cost for report in reports]
    return {
        "shards": len(reports),
        "rows_in": sum(report.rows_in for report in reports),
        "rows_out": sum(report.rows_out for report in reports),
        "drops": dict(sorted(drops.items())),
        "calls": sum(report.calls_made + report.calls_replayed for report in reports),
        "prompt_tokens": sum(report.prompt_tokens for report in reports),
        "completion_tokens": sum(report.completion_tokens for report in reports),
        "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
        "seconds": round(sum(report.seconds for report in reports), 1),
    }


def read_json(path: Path) -> Any:
    """A JSON file of the run, or None where it is not there (yet)."""
    return orjson.loads(path.read_bytes()) if path.is_file() else None


def run_status(root: Path) -> dict[str, Any]:
    """Everything `cai status --json` prints. Raises ConfigError where `root` is not a run."""
    if not (root / "config.json").is_file():
        raise ConfigError(f"{root}: not a run (no config.json); runs lie in outputs/<name>")
    names = [*STAGES, "held-out", *(f"{what}-{model}" for what in ("evaluate", "grade") for model in MODELS)]
    stages = {name: summed(reports) for name in names if (reports := shard_reports(root, name))}
    training = {
        kind: report
        for kind in ("sft", "dpo")
        if (report := read_json(root / "models" / kind / "cai_train.json"))
    }
    summary = read_json(root / "summary.json") or {}
    return {
        "run": root.name,
        "state": summary.get("state", "unfinished"),
        "seconds": summary.get("seconds"),
        "config": read_json(root / "config.json"),
        "constitution": read_json(root / "constitution.json"),
        "stages": stages,
        "dataset": summary.get("dataset", {}),
        "training": training,
        "filter": read_json(root / "filter.json"),
        "evaluation": read_json(root / "evaluation.json") or {},
        "report": str(root / "report.html") if (root / "report.html").is_file() else None,
    }
