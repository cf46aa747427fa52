"""Costs on their way to people: live on the progress line and in the table of stages; unknown is never zero."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cai.report import progress
from cai.report.progress import Board
from cai.report.status import in_all
from cai.report.tables import stage_table
from cai.shard.run import Progress


def stage(cost: float | None, calls: int = 10) -> dict[str, Any]:
    """The sums of a stage."""
    counts = {"rows_in": 5, "rows_out": 5, "drops": {}, "calls": calls}
    return {**counts, "prompt_tokens": 100, "completion_tokens": 20, "cost": cost}


def table(stages: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table of stages."""
    console = Console(file=io.StringIO(), width=120)
    console.print(stage_table({"run": "r", "stages": stages, "total": in_all(stages)}))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.splitlines()


def test_the_table_ends_with_what_all_stages_cost() -> None:
    """Calls, tokens and dollars are added up."""
    lines = table({"generate": stage(1.25), "revise": stage(0.5)})
    last = next(line for line in lines if "in all" in line)
    assert all(part in last for part in ("20", "200/40", "1.75"))


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    """The stage with a price still shows it."""
    stages = {"prompts": stage(0.0, calls=0), "generate": stage(None), "judge": stage(0.5)}
    lines = table(stages)
    assert [line.count("unknown") for line in lines if "generate" in line or "in all" in line] == [1, 1]
    assert "0.50" in next(line for line in lines if "judge" in line)
    assert in_all(stages)["cost"] is None


def test_without_any_price_there_is_no_column_of_costs() -> None:
    """An engine of one's own has no price list."""
    assert not any("cost" in line or "0.00" in line for line in table({"generate": stage(None)}))


@pytest.mark.parametrize(
    ("costs", "shown"), [((0.5, 0.75), "12k tokens, $1.25"), ((0.5, None), "12k tokens, cost unknown")]
)
def test_the_progress_line_shows_the_cost(
    costs: tuple[float | None, ...], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the shards of a stage; a shard without a known price is not left out of the sum in silence."""
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", -1.0)
    console = Console(file=io.StringIO(), width=200)
    update = Board(console).stage("generate", 10)
    for shard, cost in enumerate(costs):
        update(shard, Progress(5, 5, 5, 0, 5000, 1000, cost))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.splitlines()[-1].endswith(shown)
