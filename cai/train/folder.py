"""The output folder of a training: what a complete one is, and from where an interrupted one goes on.

config.json, model.safetensors, tokenizer…   the model, complete when cai_train.json is there
adapter/                                     the LoRA adapter, where one was trained
cai_train.json                               the report, written last
cai_train.yaml                               the plan (what `cai.train.main` reads)
metrics.jsonl                                one record for each logged step
work/                                        checkpoints and caches; removed when the model is complete
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from cai.errors import ConfigError
from cai.store import write_bytes, write_text
from cai.train.plan import METRICS, PLAN, REPORT, TrainPlan, TrainReport

# What the optimizer's states lie in: of one process or DDP, of FSDP (whole, in shards), of DeepSpeed.
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")


def read_finished(out: Path, digest: str) -> TrainReport | None:
    """The report of the complete model in `out` if it was made by exactly this plan."""
    try:
        stored = json.loads((out / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if stored.get("digest") != digest or not any(out.glob("model*.safetensors")):
        return None
    return TrainReport.model_validate(stored | {"out": out})


def write_report(report: TrainReport) -> None:
    """Store the report in the model's folder, atomically; its presence says that the model is complete."""
    write_text(report.out / REPORT, report.model_dump_json(exclude={"out", "skipped"}, indent=2))


def prepare_folder(plan: TrainPlan) -> TrainPlan:
    """Make `out` ready to be trained into and write the plan; returns it with the checkpoint to go on from.

    An unfinished training of the same digest goes on; anything else of ours is emptied. A folder with
    files that no training made is refused, so that a slip in a path deletes nothing.
    """
    out = Path(plan.out)
    previous = out / PLAN
    checkpoint = None
    if previous.is_file() or (out / REPORT).is_file():
        if _digest_in(previous) == plan.digest:
            checkpoint = last_complete_checkpoint(plan.work)
        if checkpoint is None:
            shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: not empty, and holds no {PLAN} of an earlier training; give another")
    plan.work.mkdir(parents=True, exist_ok=True)
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    for torn in plan.work.glob("checkpoint-*"):
        if torn != checkpoint:
            shutil.rmtree(torn)
    _keep_metrics(out / METRICS, step)
    plan = plan.model_copy(update={"resume_from": str(checkpoint) if checkpoint else None})
    write_text(
        previous, yaml.safe_dump(plan.model_dump(), sort_keys=False)
    )  # torn, it would cost the checkpoints
    return plan


def last_complete_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint written to its end; `trainer_state.json` is what the Trainer writes last.

    transformers' own `get_last_checkpoint` picks a torn folder. Of an optimizer
    that is divided among processes, FSDP writes a folder or optimizer.bin, and DeepSpeed a folder.
    """
    numbered = [path for path in work.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        optimizer = any(any(path.glob(name)) for name in _OPTIMIZERS)
        if optimizer and (path / "scheduler.pt").is_file() and any(path.glob("rng_state*.pth")):
            return path
    return None


def _digest_in(path: Path) -> str | None:
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return stored.get("digest") if isinstance(stored, dict) else None


def _keep_metrics(path: Path, last_step: int) -> None:
    """Drop the records after the checkpoint: those steps will be taken again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and json.loads(line)["step"] <= last_step:
            kept.append(line)
    write_bytes(path, "".join(kept).encode())
