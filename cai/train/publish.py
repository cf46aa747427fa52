"""The trained weights as a folder that transformers and vLLM load unchanged, in the base model's dtype.

Training keeps float32 master weights: in bf16 an update smaller than about 1/256 of a weight is lost, which
at usual learning rates is most of them. They are rounded once, here, an adapter's after it is merged.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import cached_file

from cai.train.findings import Findings, Speed
from cai.train.folder import write_report
from cai.train.plan import TrainPlan, TrainReport
from cai.train.undivided import undivided


def publish(trainer: Any, plan: TrainPlan, found: Findings, speed: Speed) -> None:
    """Write the final model, tokenizer and report; every process of the training calls it."""
    weights = Path(plan.out) / "adapter" if plan.lora is not None else plan.work / "weights"
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(weights))
    if not trainer.is_world_process_zero():
        return
    with undivided():
        if plan.lora is None:
            model = _load(plan, str(weights), _dtype(plan))
        else:
            _keep_only_adapter(weights)
            model = _merged(plan, weights)
    model.config.use_cache = AutoConfig.from_pretrained(plan.model, revision=revision_of(plan)).use_cache
    model.to(_dtype(plan)).save_pretrained(plan.out)
    trainer.processing_class.save_pretrained(plan.out)
    generation = _base_file(plan, "generation_config.json")
    if generation is not None and plan.kind != "reward":
        shutil.copyfile(generation, Path(plan.out) / "generation_config.json")
    write_report(_report(trainer, plan, found, speed))


def _merged(plan: TrainPlan, adapter: Path) -> Any:
    base = _load(plan, plan.model, torch.float32, revision=revision_of(plan))
    return PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()


def _load(plan: TrainPlan, path: str, dtype: Any, revision: str = "main") -> Any:
    """A model that writes, or one with a single number as its output for kind `reward`."""
    if plan.kind == "reward":
        return AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, revision=revision, num_labels=1, use_safetensors=True
        )
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, revision=revision, use_safetensors=True)


def _dtype(plan: TrainPlan) -> Any:
    """The dtype that the base model's config names; float32 where it names none."""
    dtype = AutoConfig.from_pretrained(plan.model, revision=revision_of(plan)).dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32


def revision_of(plan: TrainPlan) -> str:
    return str((plan.args.get("model_init_kwargs") or {}).get("revision", "main"))


def _base_file(plan: TrainPlan, name: str) -> str | None:
    found: str | None = cached_file(
        plan.model, name, revision=revision_of(plan), _raise_exceptions_for_missing_entries=False
    )
    return found


def _keep_only_adapter(folder: Path) -> None:
    """The tokenizer and the training arguments that the Trainer saves beside an adapter are the model's."""
    for path in folder.iterdir():
        if not path.name.startswith("adapter_"):
            path.unlink()


def _report(trainer: Any, plan: TrainPlan, found: Findings, speed: Speed) -> TrainReport:
    history = trainer.state.log_history
    losses = [record["loss"] for record in history if "loss" in record]
    seconds = [record["train_runtime"] for record in history if "train_runtime" in record]
    return TrainReport(
        kind=plan.kind,
        out=Path(plan.out),
        digest=plan.digest,
        steps=trainer.state.global_step,
        loss=losses[-1] if losses else None,
        seconds=seconds[-1] if seconds else 0.0,
        resumed_from=int(plan.resume_from.rpartition("-")[2]) if plan.resume_from else None,
        data_sha256=plan.data_sha256,
        model_digest=plan.model_digest,
        versions={name: version(name) for name in ("trl", "transformers", "torch", "peft", "accelerate")},
        found=found,
        speed=speed,
    )
