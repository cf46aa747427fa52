"""What `cai plan` says of batch APIs: the discounted cost, the saving, and how many batches follow one another."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai.plan.batches import batch_lines
from cai.plan.make import make_plan
from cai.plan.rows import Plan
from cai.plan.table import print_plan
from tests.flows.small import small_run

SAMPLING = {"temperature": None, "max_tokens": 64}
ROLES: dict[str, Any] = {
    "policy": {"model": "toy", "sampling": SAMPLING},
    "critic": {"model": "toy", "rounds": 2, "sampling": SAMPLING},
    "judge": {"model": "toy", "reasoning": True, "sampling": SAMPLING},
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan checks for keys, and asks nobody."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "k")


def planned(folder: Path, **model: Any) -> Plan:
    """The plan of a small run whose roles are all played by one model."""
    folder.mkdir()
    toy = {"backend": "anthropic", "model": "toy", "price": {"input": 300.0, "output": 1500.0}, **model}
    return make_plan(small_run(folder, "", models={"toy": toy}, **ROLES))


def printed(plan: Plan) -> str:
    """The plan as it is read."""
    out = io.StringIO()
    print_plan(plan, Console(file=out, width=200))
    return out.getvalue()


def test_a_plan_in_batches_costs_half(tmp_path: Path) -> None:
    """The cost is the discounted one, the saving is as much again, and the chains are counted."""
    live, batch = planned(tmp_path / "live"), planned(tmp_path / "batch", mode="batch")
    costs = [stage.cost for stage in live.stages if stage.cost]
    assert len(costs) == 4
    assert [stage.cost for stage in batch.stages if stage.cost] == pytest.approx([cost / 2 for cost in costs])
    assert [stage.batch_saving for stage in batch.stages] == [stage.batch_saving for stage in live.stages]
    saving = f"${sum(costs) / 2:.2f}"
    # one in generate, two times two in revise, two in judge
    wait = "in about 7 batches one after the other, each within a day"
    assert batch_lines(live) == [f"batches  mode: batch would cost {saving} less (models.toy), {wait}"]
    assert batch_lines(batch) == [f"batches  {saving} less than live, {wait}"]
    assert f"\n{batch_lines(live)[0]}\n" in printed(live)
    assert f"\n{batch_lines(batch)[0]}\n" in printed(batch)


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    """Without a price there is no saving; a batch is still a wait. vLLM has no batches."""
    assert batch_lines(planned(tmp_path / "live", price=None)) == []
    (line,) = batch_lines(planned(tmp_path / "batch", price=None, mode="batch"))
    assert line == "batches  in about 7 batches one after the other, each within a day"
    few = planned(tmp_path / "few", price=None, mode="batch", max_concurrency=5)
    count = sum(math.ceil(stage.calls.expected / 5) for stage in few.stages)
    assert count > 40
    assert batch_lines(few) == [f"batches  in about {count} batches one after the other, each within a day"]
    vllm = planned(tmp_path / "vllm", backend="vllm", endpoint="http://127.0.0.1:9")
    assert [stage.batch_saving for stage in vllm.stages] == [None] * len(vllm.stages)
    assert "batches" not in printed(vllm)
