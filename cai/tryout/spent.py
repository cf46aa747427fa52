"""What a try or a check has asked, and what its journal has answered instead."""

from __future__ import annotations

from collections.abc import Sequence

from cai.rows import Row
from cai.shard import ShardReport


class Spent(Row):
    """Calls asked, and answered from the journal. `cost`: of those made, in US dollars; None: a price is unknown.

    Tokens are of all distinct calls, also of those that the journal answered.
    """

    made: int
    replayed: int
    cost: float | None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def spent(reports: Sequence[ShardReport]) -> Spent:
    """What several shards add up to."""
    costs = [report.cost_made for report in reports]
    return Spent(
        made=sum(report.calls_made for report in reports),
        replayed=sum(report.calls_replayed for report in reports),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
        prompt_tokens=sum(report.prompt_tokens for report in reports),
        completion_tokens=sum(report.completion_tokens for report in reports),
    )


def spent_line(calls: Spent, seconds: float) -> str:
    """The same in words."""
    cost = f", ${calls.cost:.4f}" if calls.cost else ""
    return f"{calls.made:,} calls made, {calls.replayed:,} replayed{cost}, {seconds:.1f} s"
