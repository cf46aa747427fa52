"""What one training stage will do, decided and digested before a process starts. Imports no torch.

A plan resolves the user's options to the ones TRL gets, names everything that determines the weights in
one digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cai.config import TrainingConfig
from cai.errors import ConfigError

Kind = Literal["sft", "dpo"]

# What differs from TRL's own defaults on every machine: part of the digest.
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "sft": {"report_to": "none", "logging_steps": 1, "save_total_limit": 1},
    "dpo": {"report_to": "none", "logging_steps": 1, "save_total_limit": 1, "precompute_ref_log_probs": True},
}
# On a CPU: float32 without autocast, and no recomputing of activations (memory is not what is short there).
CPU_DEFAULTS: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
# Set by the plan itself, or refused for safety.
RESERVED: dict[str, str] = {
    "output_dir": "the run decides where the model goes",
    "seed": "set the run's top-level 'seed'",
    "data_seed": "set the run's top-level 'seed'",
    "resume_from_checkpoint": "an interrupted training is resumed on its own",
    "trust_remote_code": "code that comes with a model is never run",
    "dataset_kwargs": "rows come as the run exported them",
}
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
REPORT, PLAN, METRICS, WORK = "cai_train.json", "cai_train.yaml", "metrics.jsonl", "work"


class TrainPlan(BaseModel):
    """Everything the training process needs; written to `cai_train.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    model: str
    data: str
    out: str
    seed: int
    args: dict[str, Any]
    lora: dict[str, Any] | None
    accelerate: dict[str, Any]
    data_sha256: str
    model_digest: str
    digest: str
    resume_from: str | None = None

    @property
    def work(self) -> Path:
        """Folder of checkpoints and caches."""
        return Path(self.out) / WORK


class TrainReport(BaseModel):
    """What a training did. `seconds`: of the last launch's training; `loss`: the last one logged.

    `skipped`: the finished model was already there; `resumed_from`: step of the checkpoint it went on from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    out: Path
    digest: str
    steps: int
    loss: float | None
    seconds: float
    resumed_from: int | None
    data_sha256: str
    model_digest: str
    versions: dict[str, str]
    skipped: bool = False


def make_plan(
    kind: Kind, *, model: str, data: Path, out: Path, config: TrainingConfig, seed: int
) -> TrainPlan:
    """Resolve options and digest all that determines the weights. Raises ConfigError for what cannot work."""
    if not data.is_file():
        raise ConfigError(f"{data}: no such file of {kind} rows; export the dataset first")
    refuse_reserved(kind, config.args)
    for name, path in (("model", Path(model)), ("data", data)):
        if path.exists() and path.resolve().is_relative_to(out.resolve()):
            raise ConfigError(f"{out}: the output folder holds the {name} to train from; give another")
    given = DEFAULTS[kind] | config.args
    cpu = bool(config.args.get("use_cpu", config.accelerate.get("cpu", not has_gpu())))
    determinants = {
        "kind": kind,
        "data_sha256": _sha256(data),
        "model_digest": model_digest(model, config.args),
        "args": given,
        "lora": config.lora,
        "accelerate": config.accelerate,
        "seed": seed,
    }
    return TrainPlan(
        kind=kind,
        model=model,
        data=str(data),
        out=str(out),
        seed=seed,
        args=(CPU_DEFAULTS if cpu else {}) | given | {"seed": seed, "data_seed": seed},
        lora=config.lora,
        accelerate=config.accelerate,
        data_sha256=str(determinants["data_sha256"]),
        model_digest=str(determinants["model_digest"]),
        digest=hashlib.sha256(json.dumps(determinants, sort_keys=True, default=str).encode()).hexdigest(),
    )


def refuse_reserved(kind: Kind, args: dict[str, Any]) -> None:
    """Raise ConfigError for an option that is not the user's to set."""
    for name in args:
        if name in RESERVED:
            raise ConfigError(f"{kind}.args.{name}: not to be set here: {RESERVED[name]}")
    if (args.get("model_init_kwargs") or {}).get("trust_remote_code"):
        raise ConfigError(f"{kind}.args.model_init_kwargs: {RESERVED['trust_remote_code']}")


def has_gpu() -> bool:
    """True where an NVIDIA or AMD device is visible to this process; asks the system, not torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def model_digest(model: str, args: dict[str, Any]) -> str:
    """SHA-256 over names and bytes of a model folder's files; `name@revision` for a hub model."""
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith("."):
            raise ConfigError(f"{model}: no such model folder")
        return f"{model}@{(args.get('model_init_kwargs') or {}).get('revision', 'main')}"
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)} - {folder / REPORT})
    if not any(path.suffix == ".safetensors" for path in files) or folder / "config.json" not in files:
        raise ConfigError(f"{model}: not a model folder: it needs config.json and *.safetensors")
    lines = "".join(f"{path.name} {_sha256(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
