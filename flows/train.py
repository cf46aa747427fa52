"""Train: SFT on the demonstrations, then DPO on the pairs, each in its own process through accelerate."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_table_artifact

from cai.config import RunConfig
from cai.config_file import override_config
from cai.errors import ConfigError
from cai.export import part_file
from cai.preflight import preflight
from cai.runfolder import hold_run
from cai.serving import board
from cai.train.launch import launch
from flows.artifacts import key_of
from flows.common import TASK

PART = {"sft": "sft", "dpo": "preference"}


def checkpoint(config: RunConfig, kind: str) -> Path:
    """The folder of the trained model."""
    return config.root / "models" / kind


@task(name="train", task_run_name="train-{kind}", **TASK)
async def train_task(config: RunConfig, kind: str, base: str) -> dict[str, Any]:
    """Train one model from `base`; finished training with the same inputs is not repeated."""
    section = config.sft if kind == "sft" else config.dpo
    data = part_file(config.root, PART[kind])
    if section is None:
        raise ConfigError(f"{kind}: the config has no {kind!r} section")
    if not data.is_file():
        raise ConfigError(f"{data}: no dataset to train on; run the judge flow first")
    board.say(f"training {kind} from {base} on {data}")
    stop = threading.Event()
    try:
        with board:
            report = await asyncio.to_thread(
                launch,
                "sft" if kind == "sft" else "dpo",
                model=base,
                data=data,
                out=checkpoint(config, kind),
                config=section,
                seed=config.seed,
                log=config.root / "logs" / f"train-{kind}.log",
                on_metrics=board.training(kind),
                stop=stop,
            )
    finally:
        stop.set()
    found = report.model_dump(mode="json")
    table = [
        {"what": name, "value": value} for name, value in found.items() if not isinstance(value, dict | list)
    ]
    await acreate_table_artifact(table=table, key=key_of(config, f"train-{kind}"))
    return found


@flow(name="cai-train")
async def train(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """SFT and DPO on the dataset that a run has exported."""
    config = override_config(config, overrides or [])
    await preflight(config)
    base = config.models[config.policy.model].model
    found: dict[str, Any] = {}
    with hold_run(config):
        if config.sft:
            found["sft"] = await train_task(config, "sft", base)
            base = str(checkpoint(config, "sft"))
        if config.dpo:
            found["dpo"] = await train_task(config, "dpo", base)
    return found
