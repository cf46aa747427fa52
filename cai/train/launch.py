"""Start a training, follow it, and never leave it behind. Imports no torch.

`launch` runs `accelerate launch … -m cai.train.main` in a process group of its own, so that the engine's and
the trainer's memory are never held at once. It is idempotent: a finished model is returned, an interrupted
training goes on from its last complete checkpoint, with byte-identical final weights on CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cai
from cai.config import Kind, TrainingConfig
from cai.errors import ConfigError, TrainError
from cai.train.accelerated import command, require_deepspeed, wants_deepspeed
from cai.train.accepted import note, note_of
from cai.train.folder import prepare_folder, read_finished
from cai.train.memory import oom_kills
from cai.train.plan import METRICS, TrainPlan, TrainReport, make_plan
from cai.train.process import JsonlTail, failure, supervise
from cai.train.refuse import refuse

CHECK_TIMEOUT_S = 300


def launch(
    kind: Kind,
    *,
    model: str,
    data: Path,
    out: Path,
    config: TrainingConfig,
    seed: int,
    log: Path,
    reward_model: str | None = None,
    on_metrics: Callable[[dict[str, Any]], None] | None = None,
    stop: threading.Event | None = None,
) -> TrainReport:
    """Train `model` (a folder or a hub name) on the rows of `data` into the folder `out`; blocks until done.

    `on_metrics` gets each logged step: `step`, `total`, `eta_s`, `loss`, `tokens_per_s` … Set `stop` from
    another thread to end it early. `log` lies outside `out`, which may be emptied. `reward_model`: folder of
    the model that rloo and grpo are rewarded by. Raises ConfigError for wrong input, TrainError for a failed
    training.
    """
    plan = make_plan(
        kind, model=model, data=data, out=out, config=config, seed=seed, reward_model=reward_model
    )
    done = read_finished(out, plan.digest)
    if done is not None:
        shutil.rmtree(plan.work, ignore_errors=True)
        return done.model_copy(update={"skipped": True})
    require_deepspeed(kind, config.accelerate)
    plan = prepare_folder(plan)
    log.parent.mkdir(parents=True, exist_ok=True)
    start = log.stat().st_size if log.exists() else 0
    tail = JsonlTail(out / METRICS)

    def follow() -> None:
        for record in tail.read():
            if on_metrics is not None:
                on_metrics(record)

    kills = oom_kills()
    status = supervise(command(plan), env=environment(plan), log=log, on_poll=follow, stop=stop)
    report = read_finished(out, plan.digest)
    if status != 0 or report is None:
        raise failure(plan, log, start, status, by_kernel=oom_kills() != kills)
    shutil.rmtree(plan.work, ignore_errors=True)
    return report


def check_args(sections: Mapping[Kind, TrainingConfig]) -> None:
    """Raise ConfigError for the first option that TRL, peft or accelerate would refuse, by name or value.

    Builds the real TRL configs in a short-lived process (about 7 s: it has to import TRL), so call it once,
    with all sections, before the first paid call. What was accepted before is not asked again.
    """
    for kind, config in sections.items():
        refuse(kind, config)
    accepted = note_of(sections)
    if accepted.is_file():
        return
    request = {kind: config.model_dump() for kind, config in sections.items()}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cai.train.main", "--check"],
            input=json.dumps(request),
            env=base_environment() | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrainError(f"checking training options took over {CHECK_TIMEOUT_S} s") from error
    if done.returncode == ConfigError.exit_code:
        raise ConfigError(done.stdout.strip())
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise TrainError(f"checking the training options failed: {last}")
    note(accepted)


def environment(plan: TrainPlan) -> dict[str, str]:
    """The environment of every process of a training."""
    found = base_environment() | {"HF_DATASETS_CACHE": str(plan.work / "cache")}
    if Path(plan.model).is_dir():
        found["HF_HUB_OFFLINE"] = "1"
    if not wants_deepspeed(plan.accelerate):  # which could not read its own checkpoints so
        found["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # no checkpoint runs code, whoever calls torch.load
    return found


def base_environment() -> dict[str, str]:
    """Ours, plus: this very `cai` importable, no telemetry, and no forks after tokenizer threads."""
    root = str(Path(cai.__file__).parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return os.environ | {
        "PYTHONPATH": path,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",  # ORPO and CPO are trl.experimental's
    }
