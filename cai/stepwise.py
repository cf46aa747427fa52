"""Step-wise data of a run: which stages make it, whose replies they take, and what the steps came to.

`steps` asks the judge, shard by shard; `stepwise` is made of what it said, and is a part of the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from cai.config import RunConfig
from cai.rows import Drop, JudgedSteps, Stepwise
from cai.shard import shard_paths
from cai.stages.steps import step_states, stepwise_rows
from cai.store import read_rows

STEPS = "steps"
PART = "stepwise"


def step_stages(config: RunConfig, generate: str) -> list[str]:
    """The stage in which the steps of the replies of `generate`, `sft-generate` are judged; none where it is not."""
    return [STEPS] if config.stepwise and generate == origin_of(config) else []


def parts(config: RunConfig) -> list[str]:
    """The part of the dataset that comes of it."""
    return [PART] if config.stepwise else []


def origin_of(config: RunConfig) -> str:
    """The stage whose replies are judged: of the policy, in the recipe `paper` of its SFT model."""
    return "sft-generate" if config.recipe == "paper" else "generate"


def rows_of(config: RunConfig, shard: int) -> Iterator[Stepwise | Drop]:
    """The rows of the dataset that a shard of judged steps makes."""
    return stepwise_rows(read_rows(shard_paths(config.root, STEPS, shard).rows, JudgedSteps))


def states_of(root: Path, stepwise: dict[str, Any] | None) -> dict[str, Any] | None:
    """How many steps of a run are good, bad or without a label (`states`), and how many of all stand `behind_end` of
    their row. None without the section or any step.
    """
    files = sorted((root / STEPS).glob("rows-*.jsonl")) if stepwise else []
    if not files:
        return None
    rows = chain.from_iterable(read_rows(path, JudgedSteps) for path in files)
    states, behind = step_states(rows)
    return {"states": dict(states), "behind_end": behind}
