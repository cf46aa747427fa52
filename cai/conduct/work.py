"""The units of work that a run consists of, and how they are carried out when nobody else does it.

A unit takes the config, names and numbers, and gives a report back; never rows, clients or secrets. So it can be
a coroutine of this process, a Prefect task, or a task on another node that shares the run's folder.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cai.accounts.budget import spent_now
from cai.conduct.outcome import publish_dataset
from cai.config import RunConfig
from cai.config.training import REWARDED, kind_of
from cai.draw import write_slices
from cai.errors import ConfigError
from cai.evaluate.compare import compared_models
from cai.export.dataset import part_file
from cai.judges.label_error import with_measured
from cai.judges.qualification import gate
from cai.judges.stages import joint_stage, judged_sources, qualified_judge
from cai.pipeline import job_of, role_of, run_job
from cai.publish import combine_judges, label, write_held_out, write_prompts
from cai.report.status import shard_reports, summed
from cai.rounds import learns_from, plays_itself, sampled_model, stages_of
from cai.runfolder.revisions import pinned_prompts, pinned_sources, pinned_training
from cai.serving import Endpoints, board, opened
from cai.shard import ShardReport
from cai.shard.progress import Progress, progress_of
from cai.stepwise import STEPS, origin_of
from cai.train.findings import speed_told, told
from cai.train.launch import launch


class Work(NamedTuple):
    """How each unit of a run is carried out. `show` makes a finished part visible to whoever watches the run.

    A part is a stage, or `coverage`, `qualification`, `evaluation`, `train-sft`, `train-dpo` … `slots`: how many
    shards may be in work at a time; None: what keeps one process busy.
    """

    prompts: Callable[[RunConfig], Awaitable[int]]
    held_out: Callable[[RunConfig], Awaitable[int]]
    stage: Callable[[RunConfig, str, int, Endpoints], Awaitable[ShardReport]]
    combine: Callable[[RunConfig, str, int], Awaitable[ShardReport]]
    export: Callable[[RunConfig, list[str]], Awaitable[dict[str, int]]]
    train: Callable[[RunConfig, str, str], Awaitable[dict[str, Any]]]
    show: Callable[[RunConfig, str], Awaitable[None]]
    slots: int | None = None


async def prompts(config: RunConfig) -> int:
    """Read the prompt sources and publish their shards; returns the number of prompts.

    With a target: as many slices of prompts as the config has shards.
    """
    write = write_prompts if config.pairs.target is None else write_slices
    return sum(report.rows_out for report in write(pinned_prompts(config)))


async def held_out(config: RunConfig) -> int:
    """Publish the held-out prompts; returns their number. Raises ConfigError where none are configured."""
    if config.evaluate is None:
        raise ConfigError("the config has no 'evaluate' section")
    return write_held_out(config, pinned_sources(config.root, config.evaluate.sources)).rows_out


async def stage(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """Ask a stage's model about one shard, seen on the board. Raises JudgeError for a judge that must not label."""
    async with opened(config, role_of(config, stage), endpoints) as model:
        update = on_board(config, stage)
        job = job_of(config, stage, shard, model.identity)
        report = await run_job(config, job, model, lambda progress: update(shard, progress))
    if report.skipped:
        update(shard, progress_of(report))
    if qualified_judge(stage) is not None:
        gate(config, stage)
    return report


def on_board(config: RunConfig, stage: str) -> Callable[[int, Progress], None]:
    """Show a stage on the board, in the terminal and in the run's folder; returns what takes (shard, progress)."""
    return board.stage(
        stage,
        expected_rows(config, stage),
        at_most=joint_stage(stage) is not None,
        limit=config.models[role_of(config, stage)].max_concurrency,
        root=config.root,
        budget=partial(spent_now, config) if config.budget else None,
    )


def expected_rows(config: RunConfig, stage: str) -> int | None:
    """How many rows a stage will read, for its progress bar; None where only reading them tells.

    Of a stage that judges pairs the most that there may be: equal replies and unchanged revisions make none.
    """
    if joint_stage(stage) is not None:
        sources = judged_sources(config, stage)
        each = math.comb(config.policy.n, 2) * ("samples" in sources) + ("revision" in sources)
        return int(summed(shard_reports(config.root, "prompts"))["rows_out"]) * each
    origin = "prompts" if stage in ("generate", "revise") else None
    if sampled_model(stage) is not None:
        origin = "demonstrations" if plays_itself(config) else "prompts"
    elif stage.startswith("evaluate-"):
        origin = "held-out"
    elif stage.startswith("grade-"):
        origin = stage.replace("grade-", "evaluate-")
    elif (models := compared_models(stage)) is not None:
        origin = f"evaluate-{models[0]}"
    elif stage == STEPS:
        origin = origin_of(config)
    return summed(shard_reports(config.root, origin))["rows_out"] if origin else None


async def combine(config: RunConfig, stage: str, shard: int) -> ShardReport:
    """What the judges of a jury or a cascade add up to over one shard; no model is asked."""
    return combine_judges(config, stage, shard)


async def export(config: RunConfig, parts: list[str]) -> dict[str, int]:
    """Publish pairs and demonstrations, what is known of them, and the dataset with its card; rows a part."""
    for stage in (stage for part in parts for stage in stages_of(config, part)):
        for shard in range(config.shards):
            label(config, stage, shard)
    return publish_dataset(config, parts != ["sft"])


async def train(config: RunConfig, model: str, base: str) -> dict[str, Any]:
    """Train one model from `base`; finished training with the same inputs is not repeated.

    `model`: its name, which is its section's, or `dpo-1` … for a round of DPO. Raises ConfigError where section or
    dataset are missing, TrainError where training fails.
    """
    kind = kind_of(model)
    section = config.section(kind)
    data = part_file(config.root, learns_from(config, model))
    if section is None:
        raise ConfigError(f"{kind}: the config has no {kind!r} section")
    section = pinned_training(config.root, base, section)
    if not data.is_file():
        raise ConfigError(f"{data}: no dataset to train on; run the judge flow first")
    board.say(f"training {model} from {base} on {data}")
    stop = threading.Event()
    try:
        with board:
            report = await asyncio.to_thread(
                launch,
                kind,
                model=base,
                data=data,
                out=checkpoint(config, model),
                config=with_measured(config, kind, section),
                seed=config.seed,
                log=config.root / "logs" / f"train-{model}.log",
                reward_model=str(checkpoint(config, "reward")) if kind in REWARDED else None,
                on_metrics=board.training(model, config.root),
                stop=stop,
            )
    finally:
        stop.set()
    if report.found is not None and not report.skipped:
        for line in told(report.found):
            board.say(f"{model}  {line}")
    if report.speed is not None and not report.skipped:
        board.say(f"{model}  speed: {speed_told(report.speed)}")
    return report.model_dump(mode="json")


def checkpoint(config: RunConfig, model: str) -> Path:
    """The folder of the trained model."""
    return config.root / "models" / model


async def _unseen(config: RunConfig, part: str) -> None:
    """Nobody watches but the terminal, which the board already tells."""


HERE = Work(prompts, held_out, stage, combine, export, train, show=_unseen)
