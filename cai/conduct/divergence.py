"""Guards that need the weights: KL divergence from the base and entropy of each evaluated model.

They are measured once for the same weights and replies, in a process of their own on whatever device there is
(`cai.evaluate.divergence`). Where that fails the reason stands in their place: an evaluation is not lost to a guard.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.clients import board
from cai.config import RunConfig
from cai.evaluate.divergence import Divergence, Measured, Origin, Plan, compared, figures
from cai.pipeline import rows_file
from cai.report.status import read_json
from cai.runfolder.made import made, made_of, note_made
from cai.store import write_json
from cai.train.launch import base_environment
from cai.train.process import last_error, supervise

NEEDED = ("torch", "transformers")


async def divergence(config: RunConfig, weights: Mapping[str, str]) -> dict[str, Divergence]:
    """The figures of each model. `weights`: folders or hub names by the names of the models, the base first."""
    stages = [f"evaluate-{name}" for name in weights]
    inputs = made_of(config.root, stages, list(weights), config.seed, config.policy.system_prompt)
    found = made(config.root, "divergence", inputs)
    if found is None:
        if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            return _unmeasured(weights, f"needs {' and '.join(missing)}: pip install 'cai[train]'")
        found = await _measured(config, weights)
        if isinstance(found, str):
            return _unmeasured(weights, found)
        note_made(config.root, "divergence", inputs, [], found)
    rows = {name: [Measured.model_validate(row) for row in found[name]] for name in weights}
    return compared({name: figures(measured) for name, measured in rows.items()})


async def _measured(config: RunConfig, weights: Mapping[str, str]) -> Any:
    """What the process has found, by model; where it failed the last error in its log."""
    folder, log = config.root / "made", config.root / "logs" / "divergence.log"
    file, out = folder / "divergence-plan.json", folder / "divergence-rows.json"
    origins = [
        Origin(name=name, weights=path, replies=rows_file(config.root, f"evaluate-{name}", 0))
        for name, path in weights.items()
    ]
    plan = Plan(models=tuple(origins), system_prompt=config.policy.system_prompt, seed=config.seed, out=out)
    for path in (file, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    write_json(file, plan.model_dump(mode="json"))
    start = log.stat().st_size if log.exists() else 0
    board.say(f"measuring KL divergence and entropy of {', '.join(weights)}; log {log}")
    status = await _followed(
        [sys.executable, "-m", "cai.evaluate.divergence", str(file)], _environment(weights), log
    )
    found = read_json(out)
    return found if status == 0 and found is not None else f"{last_error(log, start)} (log: {log})"


async def _followed(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """The exit status of a process, which ends when this is cancelled."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(
            supervise, command, env=environment, log=log, on_poll=lambda: None, stop=stop
        )
    finally:
        stop.set()


def _environment(weights: Mapping[str, str]) -> dict[str, str]:
    here = all(Path(path).is_dir() for path in weights.values())
    return base_environment() | ({"HF_HUB_OFFLINE": "1"} if here else {})


def _unmeasured(weights: Mapping[str, str], why_not: str) -> dict[str, Divergence]:
    return {name: Divergence(why_not=why_not) for name in weights}
