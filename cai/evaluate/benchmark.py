"""Standard benchmarks on a run's models, by EleutherAI's lm-evaluation-harness (`lm_eval`).

The harness does all of it: tasks, prompts, metrics, standard errors. Here is only which models, with which engine and
chat template, where the results go, and that nothing is measured twice.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cai.config import RunConfig
from cai.errors import ConfigError, TrainError
from cai.report.status import read_json
from cai.store import write_json
from cai.train.plan import has_gpu, model_digest
from cai.train.process import supervise

FOLDER = "benchmarks"
OURS = {  # what the harness is told here, and may not be told again
    "--tasks": "give --tasks to cai",
    "--model_args": "the models are the run's",
    "--output_path": "results are kept in the run's folder",
}


class Score(BaseModel):
    """One metric of one task, as the harness gives it. `stderr`: None where it gives none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    stderr: float | None
    higher_is_better: bool | None
    n: int | None


class Measured(BaseModel):
    """What a model was measured on. `digest`: of model, harness and options; `scores`: by task and metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    tasks: tuple[str, ...] = ()
    scores: dict[str, dict[str, Score]] = {}


def benchmark(
    config: RunConfig,
    tasks: Sequence[str],
    models: Sequence[str],
    options: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Measured]:
    """Run the harness's `tasks` on the base and the trained policies, and keep the scores in the run's folder.

    `models`: names; none for the base and every policy that is trained. `options`: more of the harness's own, to the
    letter. A task that a model was measured on with the same options is not run again. Raises ConfigError for a model
    that is not there and without the harness, TrainError where it fails.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("benchmarks need lm-evaluation-harness: pip install 'cai[benchmarks]'")
    for option in options:
        if (name := option.split("=")[0]) in OURS:
            raise ConfigError(f"{name}: not to be set here: {OURS[name]}")
    found: dict[str, Measured] = {}
    for name, folder in folders(config, models).items():
        path = config.root / FOLDER / f"{name}.json"
        known = _known(path, _digest(folder, options))
        if missing := [task for task in tasks if task not in known.tasks]:
            say(f"{name}: {', '.join(missing)}")
            scores = known.scores | _run(config, name, folder, missing, options)
            known = Measured(digest=known.digest, tasks=(*known.tasks, *missing), scores=scores)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
        found[name] = known
    return found


def folders(config: RunConfig, models: Sequence[str]) -> dict[str, str]:
    """Where the named models are, in the order of a run. Raises ConfigError for one that is not there."""
    base = config.models[config.policy.model]
    known = {} if base.backend != "vllm" else {"base": base.model}
    for name in config.policies:
        folder = config.root / "models" / name
        if (folder / "config.json").is_file():
            known[name] = str(folder)
    for name in models:
        if name not in known:
            raise ConfigError(
                f"--model {name}: not a model of {config.root}; there are {', '.join(known) or 'none'}"
            )
    if not known:
        raise ConfigError(f"{config.root}: has no model whose weights are at hand; train one first")
    return {name: folder for name, folder in known.items() if not models or name in models}


def _digest(model: str, options: Sequence[str]) -> str:
    parts = [model_digest(model, {}), version("lm_eval"), *options]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _known(path: Path, digest: str) -> Measured:
    stored = read_json(path) or {}
    return Measured.model_validate(stored) if stored.get("digest") == digest else Measured(digest=digest)


def _run(
    config: RunConfig, name: str, model: str, tasks: Sequence[str], options: Sequence[str]
) -> dict[str, dict[str, Score]]:
    out = config.root / FOLDER / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    log = config.root / "logs" / f"benchmark-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "lm_eval", "run", "--tasks", ",".join(tasks), "--output_path", str(out / "results.json"),
        "--model_args", f"pretrained={model}", "--seed", str(config.seed), *_defaults(options), *options,
    ]  # fmt: skip
    status = supervise(command, env=os.environ, log=log, on_poll=lambda: None, stop=None)
    results = sorted(out.glob("results*.json"))
    if status != 0 or not results:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        raise TrainError(
            f"benchmark of {name} failed: {lines[-1] if lines else f'exit status {status}'} (log: {log})"
        )
    return read_results(json.loads(results[-1].read_text("utf-8")))


def _defaults(options: Sequence[str]) -> list[str]:
    """What the harness is told unless the user tells it otherwise: the engine, and that these models chat."""
    given = {option.split("=")[0] for option in options}
    engine = "vllm" if has_gpu() and importlib.util.find_spec("vllm") is not None else "hf"
    defaults = {
        "--model": [engine],
        "--apply_chat_template": [],
        "--batch_size": ["auto" if has_gpu() else "8"],
    }
    if not has_gpu():
        defaults["--device"] = ["cpu"]
    return [word for name, values in defaults.items() if name not in given for word in (name, *values)]


def read_results(results: Mapping[str, Any]) -> dict[str, dict[str, Score]]:
    """The scores in a results file of the harness: {task or group: {metric: score}}."""
    found: dict[str, dict[str, Score]] = {}
    for task, values in results["results"].items():
        better = results["higher_is_better"].get(task, {})
        for key, value in values.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{kind}")
            found.setdefault(task, {})[metric if kind == "none" else f"{metric} ({kind})"] = Score(
                value=value,
                stderr=stderr if isinstance(stderr, int | float) else None,
                higher_is_better=better.get(metric),
                n=values.get("sample_len"),
            )
    return found
