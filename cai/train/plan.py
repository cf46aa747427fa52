"""What one training stage will do, decided and digested before a process starts. Imports no torch.

A plan resolves the user's options to the ones TRL gets, names everything that determines the weights in
one digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cai.config import DpoConfig, Kind, TrainingConfig
from cai.config.training import REWARDED
from cai.errors import ConfigError
from cai.train.findings import Findings, Speed
from cai.train.refuse import config_path, refuse

# What differs from TRL's own defaults on every machine: part of the digest.
_EVERY: dict[str, Any] = {"report_to": "none", "logging_steps": 1, "save_total_limit": 1}
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "sft": _EVERY,
    "dpo": _EVERY | {"precompute_ref_log_probs": True},
    "kto": _EVERY | {"precompute_ref_log_probs": True},
    "orpo": _EVERY,
    "cpo": _EVERY,
    "reward": _EVERY,
    "rloo": _EVERY,
    "grpo": _EVERY | {"beta": 0.04},  # TRL's own 0 leaves out the KL to the reference
}
# On a CPU: float32 without autocast, and no recomputing of activations (memory is not what is short there).
CPU_DEFAULTS: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
REPORT, PLAN, METRICS, WORK = "cai_train.json", "cai_train.yaml", "metrics.jsonl", "work"


class TrainPlan(BaseModel):
    """Everything the training process needs; written to `cai_train.yaml`.

    `soft_labels`: as in the dpo section. `reward_model`: folder of the model that scores replies (rloo, grpo).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    model: str
    data: str
    out: str
    seed: int
    args: dict[str, Any]
    lora: dict[str, Any] | None
    accelerate: dict[str, Any]
    soft_labels: bool | float = False
    reward_model: str | None = None
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
    `found`: what it found out before its first step, `speed`: what it took; None in reports of older versions.
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
    found: Findings | None = None
    speed: Speed | None = None
    skipped: bool = False


def make_plan(
    kind: Kind,
    *,
    model: str,
    data: Path,
    out: Path,
    config: TrainingConfig,
    seed: int,
    reward_model: str | None = None,
) -> TrainPlan:
    """Resolve options and digest all that determines the weights. Raises ConfigError for what cannot work."""
    refuse(kind, config)
    _check_inputs(kind, model, data, out, reward_model)
    given = DEFAULTS[kind] | config.args
    cpu = bool(config.args.get("use_cpu", config.accelerate.get("cpu", not has_gpu())))
    soft_labels = config.soft_labels if isinstance(config, DpoConfig) else False
    determinants: dict[str, Any] = {
        "kind": kind,
        "data_sha256": _sha256(data),
        "model_digest": model_digest(model, config.args),
        "args": given,
        "lora": config.lora,
        "accelerate": config.accelerate,
        "seed": seed,
    }
    if "config_file" in config.accelerate:
        determinants["accelerate_config"] = _sha256(config_path(config.accelerate["config_file"]))
    if soft_labels is not False:
        determinants["soft_labels"] = soft_labels
    if reward_model is not None:
        determinants["reward_model_digest"] = _reward_model_digest(kind, reward_model)
    return TrainPlan(
        kind=kind,
        model=model,
        data=str(data),
        out=str(out),
        seed=seed,
        args=(CPU_DEFAULTS if cpu else {}) | given | {"seed": seed, "data_seed": seed},
        lora=config.lora,
        accelerate=config.accelerate,
        soft_labels=soft_labels,
        reward_model=reward_model,
        data_sha256=determinants["data_sha256"],
        model_digest=determinants["model_digest"],
        digest=hashlib.sha256(json.dumps(determinants, sort_keys=True, default=str).encode()).hexdigest(),
    )


def _check_inputs(kind: Kind, model: str, data: Path, out: Path, reward_model: str | None) -> None:
    if not data.is_file():
        raise ConfigError(f"{data}: no such file of {kind} rows; export the dataset first")
    if kind in REWARDED and reward_model is None:
        raise ConfigError(f"{kind}: needs a reward model; train one with 'reward'")
    inputs = {"model": Path(model), "data": data}
    if reward_model is not None:
        if kind not in REWARDED:
            raise ConfigError(f"{kind}: takes no reward model; only {' and '.join(REWARDED)} do")
        inputs["reward model"] = Path(reward_model)
    for name, path in inputs.items():
        if path.exists() and path.resolve().is_relative_to(out.resolve()):
            raise ConfigError(f"{out}: the output folder holds the {name} to train from; give another")


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


def _reward_model_digest(kind: Kind, folder: str) -> str:
    """The digest of a reward model; any other would be given a head of random numbers to score with."""
    digest = model_digest(folder, {})
    config = Path(folder) / "config.json"
    named = json.loads(config.read_text(encoding="utf-8")).get("architectures") if config.is_file() else None
    if not named or not all(name.endswith("ForSequenceClassification") for name in named):
        raise ConfigError(
            f"{kind}: {folder} is no reward model (sequence classification); train one with 'reward'"
        )
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
