"""`cai train --dry-run`: two steps of every training of a config on a tiny model, before anything is paid for.

The model has the architecture, tokenizer and chat template of the policy and random weights (`cai.train.shrink`); the
rows are made up. So it runs anywhere, and finds what only a trainer finds: options that exclude each other, layers
that `lora.target_modules` does not meet, a template that cannot be trained with, a loss that the model does not have.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cai.config import Kind, RunConfig, TrainingConfig
from cai.config.training import FROM_BASE, MEASURED, REWARDED
from cai.errors import CaiError, ConfigError, TrainError
from cai.rows import Demonstration, Message, Pair, Row
from cai.store import encode
from cai.train.launch import check_args, launch
from cai.train.plan import has_gpu

STEPS, ROWS = 2, 64
NEEDS_GPU = ("bf16", "fp16", "tf32", "use_liger_kernel", "use_vllm")
NEEDS_GPU_INIT = ("attn_implementation", "quantization_config", "use_kernels", "device_map")
THREADS = "num_cpu_threads_per_process"
SUBJECTS = ("bread", "a door", "cats", "the garden", "an old clock", "a small boat", "rain", "the market")


class Outcome(NamedTuple):
    """What came of one training. `losses`: of its steps; `left_out`: options that want a GPU, where there is none."""

    kind: Kind
    losses: tuple[float, ...]
    seconds: float
    left_out: tuple[str, ...]
    problem: str | None


def dry_run(config: RunConfig, say: Callable[[str], None]) -> Iterator[Outcome]:
    """Train every section of the config for two steps, and tell of each as it ends.

    Raises ConfigError for options that no trainer takes and for a policy that cannot be read or made small. A training
    that fails is an outcome, with its log named; all that was written is removed unless one did.
    """
    sections = {kind: section for kind in config.trained if (section := config.section(kind)) is not None}
    if not sections:
        raise ConfigError("the config has no training section (sft, dpo, …); nothing to try")
    check_args(sections)
    folder = Path(tempfile.mkdtemp(prefix="cai-dry-run-"))
    whole = False
    try:
        say(_small_model(config.models[config.policy.model].model, sections.values(), folder / "base"))
        _write(folder / "sft.jsonl", _demonstrations())
        _write(folder / "preference.jsonl", _pairs())
        problems = []
        for kind, section in sections.items():
            outcome = _try(config, kind, section, folder)
            problems.append(outcome.problem)
            yield outcome
        whole = not any(problems)
    finally:
        if whole or not any(folder.glob("*.log")):
            shutil.rmtree(folder)


def _small_model(policy: str, sections: Iterable[TrainingConfig], out: Path) -> str:
    """Make the tiny model in a process of its own, which takes torch's memory with it; returns what it is."""
    inits = [(section.args.get("model_init_kwargs") or {}) for section in sections]
    revision = next((str(init["revision"]) for init in inits if "revision" in init), "main")
    done = subprocess.run(
        [sys.executable, "-m", "cai.train.shrink", policy, revision, str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout.strip()
    if done.returncode == ConfigError.exit_code:
        raise ConfigError(said)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise TrainError(f"{policy}: the tiny model could not be made: {last}")
    return f"dry run: {STEPS} steps each on {int(said):,} random parameters with the architecture of {policy}"


def _try(config: RunConfig, kind: Kind, section: TrainingConfig, folder: Path) -> Outcome:
    after_sft = kind not in FROM_BASE and (folder / "out-sft" / "config.json").is_file()
    short, left_out = shortened(section)
    records: list[dict[str, Any]] = []
    problem, seconds = None, 0.0
    try:
        report = launch(
            kind,
            model=str(folder / ("out-sft" if after_sft else "base")),
            data=folder / ("sft.jsonl" if kind == "sft" else "preference.jsonl"),
            out=folder / f"out-{kind}",
            config=short,
            seed=config.seed,
            log=folder / f"{kind}.log",
            reward_model=str(folder / "out-reward") if kind in REWARDED else None,
            on_metrics=records.append,
        )
        seconds = report.seconds
    except CaiError as error:
        problem = str(error)
    losses = tuple(record["loss"] for record in records if "loss" in record)
    return Outcome(kind, losses, seconds, left_out, problem)


def shortened(section: TrainingConfig) -> tuple[TrainingConfig, tuple[str, ...]]:
    """The section for two steps that keep nothing; and the names of what only a GPU can do, left out without one."""
    args, accelerate = dict(section.args), dict(section.accelerate)
    left_out: list[str] = []
    if not has_gpu():
        left_out += [name for name in NEEDS_GPU if args.pop(name, None)]
        init = dict(args.get("model_init_kwargs") or {})
        left_out += [name for name in NEEDS_GPU_INIT if init.pop(name, None)]
        if init or "model_init_kwargs" in args:
            args["model_init_kwargs"] = init
        if any(part in str(args.get("optim", "")) for part in ("8bit", "4bit", "paged")):
            left_out.append(f"optim {args.pop('optim')}")
        left_out += [f"accelerate.{name}" for name in accelerate if name != THREADS]
        accelerate = {name: value for name, value in accelerate.items() if name == THREADS}
    if args.get("label_smoothing") == MEASURED:
        args["label_smoothing"] = 0.1
    args |= {"max_steps": STEPS, "save_strategy": "no", "logging_steps": 1}
    return section.model_copy(update={"args": args, "accelerate": accelerate}), tuple(left_out)


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.write_bytes(b"".join(encode(row) + b"\n" for row in rows))


def _demonstrations() -> Iterator[Demonstration]:
    for n in range(ROWS):
        prompt, good, _ = _texts(n)
        yield Demonstration(
            id=f"p{n}", prompt=(prompt,), completion=(good,), source="revision", tags=(), lineage=f"p{n}"
        )


def _pairs() -> Iterator[Pair]:
    for n in range(ROWS):
        prompt, good, bad = _texts(n)
        yield Pair(
            id=f"p{n}", prompt=(prompt,), chosen=(good,), rejected=(bad,), p=0.9, margin=2.2, source="samples",
            principles=("kind",), tags=(), lineage=f"p{n}",
        )  # fmt: skip


def _texts(n: int) -> tuple[Message, Message, Message]:
    subject = SUBJECTS[n % len(SUBJECTS)]
    return (
        Message(role="user", content=f"Tell me thing number {n} about {subject}."),
        Message(role="assistant", content=f"Gladly: thing {n} about {subject} is that people like to look at it."),
        Message(role="assistant", content=f"No. {subject} again? That makes {n} times."),
    )  # fmt: skip
