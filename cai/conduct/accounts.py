"""A run's accounts at its end: what each stage read and what became of it, from the manifests of all shards alone.

What a stage read must be what the stage before it published. Where a stage reads only some of those rows, or makes
comparisons of them, no more than that can be said without reading the files; each manifest has their digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cai.accounts.spending import Spent, read_spent
from cai.config import RunConfig
from cai.evaluate.compare import compare_stage, compared_models
from cai.judges.stages import joint_stage, judge_stages
from cai.report.status import shard_reports, stage_names, whole_json
from cai.rounds import plays_itself, rounds_of
from cai.shard.accounting import Link, check_attempts, check_links, check_manifests
from cai.stepwise import PART, STEPS, origin_of
from cai.store import write_json

FILE = "accounting.json"


def account(config: RunConfig, whole: bool = True) -> dict[str, Any]:
    """Check that all rows and calls of a run add up, and publish what they come to. Raises AccountingError.

    `whole`: the run is through; else stages that are yet to be made again may be of other inputs, and what they read
    is not looked at.
    """
    reports = {stage: shard_reports(config.root, stage) for stage in _stages(config)}
    for found in reports.values():
        check_manifests(found)
    if whole:
        for link in _links(config):
            check_links(link, reports.get(link.reader, []), reports.get(link.origin, []))
    everything = [report for found in reports.values() for report in found]
    prompts = reports["prompts"]
    calls = sum(report.calls_made + report.calls_replayed for report in everything)
    spent = read_spent(config.root) or Spent()
    if all(model.mode == "live" for model in config.models.values()):  # results of a batch can be read twice
        check_attempts(spent)
    accounted = {
        "read": sum(report.rows_in for report in prompts),
        "prompts": sum(report.rows_out for report in prompts),
        "dropped": sum(sum(report.drops.values()) for report in prompts),
        "stages": {
            stage: {
                "rows_in": sum(report.rows_in for report in found),
                "gave_rows": sum(report.rows_used or 0 for report in found),
                "dropped": sum(report.rows_lost or 0 for report in found),
            }
            for stage, found in reports.items()
            if found and all(report.rows_used is not None for report in found)
        },
        "calls": calls,
        "attempts": spent.calls,
        "replies": spent.replies,
        "failed_attempts": dict(spent.failed),
        "attempts_lost": spent.lost,
    }
    if whole_json(config.root / FILE) != accounted:
        write_json(config.root / FILE, accounted)
    return accounted


def _stages(config: RunConfig) -> list[str]:
    """All stages that this config has."""
    members = config.judge.jury or config.judge.cascade or ()
    names = stage_names(members, config.rounds, bool(config.stepwise))
    if config.evaluate:
        models = ("base", *config.policies)
        names += ["held-out", *(f"evaluate-{model}" for model in models)]
        names += [f"grade-{model}" for model in models]
        names += [compare_stage(pair) for pair in config.compared]
    return names


def _links(config: RunConfig) -> Iterator[Link]:
    """Which stage reads which; stages that a run of this config does not have are there and have no reports."""
    yield Link("generate", "prompts")
    yield Link("revise", "generate", all_rows=False)  # the first sample of each prompt
    if "revision" in config.pairs.sources or config.recipe == "paper":
        yield Link("demonstrations", "revise")
    if config.stepwise:
        yield Link(STEPS, origin_of(config))
        yield Link(PART, STEPS)
    for one in rounds_of(config):
        alone = plays_itself(config)
        yield Link(one.generate, "prompts", all_rows=not alone)
        yield Link(one.pairs, one.generate if alone else one.judge)
    if config.recipe == "direct":
        yield Link("pairs", "judge", all_rows="revision" in config.pairs.sources)
    for stage in _stages(config):
        if stage.startswith("evaluate-"):
            yield Link(stage, "held-out")
        elif stage.startswith("grade-"):
            yield Link(stage, stage.replace("grade-", "evaluate-"))
        elif (models := compared_models(stage)) is not None:
            yield Link(stage, f"evaluate-{models[0]}", all_rows=False)
        elif joint_stage(stage) == stage and not config.judge.model:  # all judges' answers to all comparisons
            yield Link(stage, next(iter(judge_stages(config, stage))), what_was_read=True)
