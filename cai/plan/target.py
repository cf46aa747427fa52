"""How many prompts the plan of a run with a target counts calls for: which is not known before, so it is said."""

from __future__ import annotations

import math

from cai.config import RunConfig
from cai.draw import write_slices
from cai.preferences import pairs_of
from cai.report.status import shard_reports
from cai.rows import Pair
from cai.target import SLICE, most_pairs, next_wave, write_reached


def plan_draw(config: RunConfig, scratch: RunConfig) -> tuple[RunConfig, str]:
    """The config with the slices that are planned for as its shards, published in `scratch`, and what was assumed.

    As many as the run has drawn where its pairs are enough; else what its yield so far asks for, or without any the
    fewest that can do.
    """
    target = config.pairs.target
    assert target is not None
    wanted, why = _wanted(config, target)
    reports = write_slices(scratch.model_copy(update={"shards": wanted}))
    prompts = sum(report.rows_out for report in reports)
    text = f"target   {target:,} pairs; counted for {prompts:,} prompts, {why}"
    if len(reports) < wanted:
        text = f"target   {target:,} pairs; counted for all {prompts:,} prompts, which may be too few: {why}"
    return config.model_copy(update={"shards": len(reports)}), text


def end_dataset(scratch: RunConfig) -> bool:
    """Find where the dataset of a rehearsal ends; False where its judgments give too few pairs."""
    accepted = (
        (shard, row)
        for shard in range(scratch.shards)
        for row in pairs_of(scratch, "pairs", shard)[0]
        if isinstance(row, Pair)
    )
    return write_reached(scratch, accepted, 0) is not None


def _wanted(config: RunConfig, target: int) -> tuple[int, str]:
    accepted = prompts = 0
    for number, report in enumerate(shard_reports(config.root, "pairs"), 1):
        accepted += report.rows_out + report.drops.get("beyond_target", 0)
        if accepted >= target:
            return number, "as many as the run has drawn"
    prompts = sum(report.rows_out for report in shard_reports(config.root, "prompts"))
    most = most_pairs(config)
    if accepted and prompts:
        each = accepted / prompts
        return math.ceil(
            target / each / SLICE
        ), f"by the {each:.3g} pairs a prompt that the run has got so far"
    return next_wave(
        target, 0, 0, most, 1
    ), f"the fewest that can give them ({most} pairs a prompt); more are drawn as some give fewer"
