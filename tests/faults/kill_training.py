"""kill -9 of a training, or of the run that waits for it: it goes on from its checkpoint to byte-identical weights."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from cai.train.folder import last_complete_checkpoint
from cai.train.plan import METRICS, REPORT
from tests.faults.after import alive, check_files, kill, left, mark, until_gone
from tests.faults.kill import AGAIN, Environment, Process
from tests.faults.scene import Result, Scenario, ended
from tests.tiny_model import build_model, write_pairs

STEPS = 12
ARGS = {
    "max_steps": STEPS, "save_steps": 3, "save_total_limit": 2, "per_device_train_batch_size": 4, "beta": 0.2,
    "learning_rate": 1e-3,
}  # fmt: skip
RUN = """
import json, sys
from pathlib import Path
from cai.config import TrainingConfig
from cai.train.launch import launch
folder, out, config = Path(sys.argv[1]), Path(sys.argv[2]), TrainingConfig(args=json.loads(sys.argv[3]))
model, data, log = str(folder / "base"), folder / "pairs.jsonl", out.with_suffix(".log")
launch("dpo", model=model, data=data, out=out, config=config, seed=3, log=log)
"""


async def training_killed(folder: Path, seed: int, times: int) -> Result:
    """A DPO training on a tiny model on the CPU; its rows are the steps in its metrics.

    Killed at random moments, or right after the first checkpoint, and by turns: the process that trains, or the run
    that waits for it.
    """
    rng, kills, seconds = random.Random(seed), 0, []
    build_model(folder / "base")
    write_pairs(folder / "pairs.jsonl")
    began = time.monotonic()
    await _to_the_end(folder, folder / "whole")
    whole_s = time.monotonic() - began
    lost = doubled = 0
    for number in range(3 * times):
        if kills >= times:
            break
        out = folder / f"out-{number}"
        for _ in range(min(2, times - kills)):
            until = None if rng.random() < 0.5 else rng.random() * whole_s
            if not await _killed(folder, out, until, trainer=bool(kills % 2)):
                break
            kills += 1
        checkpoint = None if (out / REPORT).exists() else last_complete_checkpoint(out / "work")
        began = time.monotonic()
        await _to_the_end(folder, out)
        seconds.append(time.monotonic() - began)
        if checkpoint is not None:
            resumed = json.loads((out / REPORT).read_text())["resumed_from"]
            assert resumed == int(checkpoint.name.rpartition("-")[2]), "not from its last checkpoint"
        assert _weights(out) == _weights(folder / "whole"), "other weights than the undisturbed training"
        steps = _steps(out)
        lost += STEPS - len(steps.keys() & set(range(1, STEPS + 1)))
        doubled += steps.total() - len(steps)
    return Result("kill -9 of a training", kills, STEPS, lost, doubled, 0, 0, tuple(seconds), AGAIN)


async def _killed(folder: Path, out: Path, until_s: float | None, *, trainer: bool) -> bool:
    """One kill of a training that is on its way, after some seconds or its first checkpoint; False: it was through."""
    environment, began = mark(), time.monotonic()
    process = _start(folder, out, environment)
    while process.poll() is None:
        if until_s is None and last_complete_checkpoint(out / "work") is not None:
            break
        if until_s is not None and time.monotonic() - began > until_s:
            break
        await asyncio.sleep(0.01)
    if process.poll() is not None:
        assert process.returncode == 0, await ended(process)
        return False
    at_work = left(environment, "cai.train.main")
    kill(at_work if trainer and at_work else [process.pid])
    await ended(process, 600)
    await until_gone(environment)
    assert not alive(at_work)
    if (out / METRICS).exists():
        check_files(out)
    assert process.returncode or (out / REPORT).exists()
    return process.returncode != 0


def _start(folder: Path, out: Path, environment: Environment) -> Process:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), str(out), json.dumps(ARGS)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


async def _to_the_end(folder: Path, out: Path) -> None:
    environment = mark()
    process = _start(folder, out, environment)
    _, errors = await ended(process, 600)
    assert process.returncode == 0, errors
    await until_gone(environment)
    assert not list(out.rglob("*.tmp"))


def _weights(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def _steps(out: Path) -> Counter[int]:
    return Counter(json.loads(line)["step"] for line in (out / METRICS).read_text().splitlines())


SCENARIOS: dict[str, tuple[Scenario, int]] = {"kill -9 of a training, or of its run": (training_killed, 6)}
