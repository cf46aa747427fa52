"""How far a shard is, told while it runs to whoever watches."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from cai.shard import ShardReport

NO_DROPS: Mapping[str, int] = MappingProxyType({})


class Progress(NamedTuple):
    """How far a shard is. `rows_total`: None where the input has no length.

    Tokens and `cost` are of all calls behind the rows, replayed ones too; `generated`: tokens that models wrote in
    calls of this run. `in_flight`: calls begun and not ended; `drops`: rows dropped so far, by reason.
    """

    rows_done: int
    rows_total: int | None
    calls_made: int
    calls_replayed: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    generated: int = 0
    in_flight: int = 0
    drops: Mapping[str, int] = NO_DROPS


def progress_of(report: ShardReport) -> Progress:
    """A shard that is through. Its report does not tell replayed tokens from others: `generated` is by their calls."""
    calls = report.calls_made + report.calls_replayed
    return Progress(
        rows_done=report.rows_in,
        rows_total=report.rows_in,
        calls_made=report.calls_made,
        calls_replayed=report.calls_replayed,
        prompt_tokens=report.prompt_tokens,
        completion_tokens=report.completion_tokens,
        cost=report.cost,
        generated=round(report.completion_tokens * report.calls_made / calls) if calls else 0,
        drops=report.drops,
    )
