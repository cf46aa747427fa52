"""How many shards are in work side by side."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cai.conduct.stages import run_stages
from cai.conduct.work import HERE
from cai.config import RunConfig
from cai.publish import write_prompts

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("prompts", "limit", "side_by_side"),
    [
        pytest.param(40, 64, 20, id="all where they are small"),
        pytest.param(40, 1, 8, id="16 prompts for each concurrent call"),
        pytest.param(400, 1, 4, id="four where they are large"),
    ],
)
async def test_shards_in_work(tmp_path: Path, prompts: int, limit: int, side_by_side: int) -> None:
    """So many that one shard's last calls leave no place empty, and no more than that takes."""
    (tmp_path / "prompts.txt").write_text("".join(f"question {i}\n" for i in range(prompts)))
    (tmp_path / "c.yaml").write_text("name: c\nversion: 1\nprinciples: [{id: kind, statement: Be kind.}]\n")
    model = {"backend": "vllm", "model": "m", "endpoint": "http://127.0.0.1:9", "max_concurrency": limit}
    config = RunConfig.model_validate(
        {
            "name": "side-by-side",
            "outputs": str(tmp_path),
            "constitution": str(tmp_path / "c.yaml"),
            "shards": 20,
            "prompts": [{"path": str(tmp_path / "prompts.txt")}],
            "models": {"m": model},
            "policy": {"model": "m"},
            "critic": {"model": "m"},
            "judge": {"model": "m"},
        }
    )
    write_prompts(config)
    active, most, seen = 0, 0, 0

    async def stage(*_: Any) -> Any:
        nonlocal active, most, seen
        active += 1
        most, seen = max(most, active), seen + 1
        await asyncio.sleep(0.01)
        active -= 1

    async def show(*_: Any) -> None:
        pass

    await run_stages(config, ["generate"], HERE._replace(stage=stage, show=show))
    assert (most, seen) == (side_by_side, 20)
