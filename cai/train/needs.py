"""Memory and disk that a training will take, estimated from its parameters before any weight is loaded.

accelerate's own estimate (`estimate_training_usage`) is the largest of the phases for a full fine-tuning with Adam;
adapters, a reference, shards over devices and checkpoints are what decides here, so the sums are written out.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from cai.config.training import REWARDED
from cai.errors import ConfigError
from cai.train.findings import Needs, gigabytes
from cai.train.plan import TrainPlan
from cai.train.undivided import undivided


def estimate(plan: TrainPlan, args: Any, peft_config: Any, rows: int) -> Needs:
    """The needs of a training on that many rows. Raises ConfigError where the disk cannot hold them."""
    init = args.model_init_kwargs or {}
    config = AutoConfig.from_pretrained(plan.model, revision=init.get("revision", "main"))
    parameters, trainable = _count(plan, config, peft_config)
    width, final_width = _width(init.get("dtype", "float32"), config), _width("auto", config)
    states = trainable * _optimizer_width(str(getattr(args.optim, "value", args.optim)), width)
    checkpoint = trainable * width + (0 if args.save_only_model else states)
    checkpoints = _checkpoints_at_once(args, rows)
    models = trainable * width + parameters * final_width
    device = (
        torch.cuda.get_device_properties(args.device).total_memory if args.device.type == "cuda" else None
    )
    needs = Needs(
        parameters=parameters,
        trainable=trainable,
        memory=_memory(plan, args, parameters, trainable, width, states),
        device=device,
        disk=checkpoints * checkpoint + models,
        disk_free=shutil.disk_usage(plan.out).free + _size(plan.work.glob("checkpoint-*/**/*")),
    )
    if needs.disk > needs.disk_free:
        raise ConfigError(
            f"{plan.out}: {plan.kind} needs about {gigabytes(needs.disk)} of disk ({checkpoints} checkpoints at a time "
            f"of {gigabytes(checkpoint)}, {gigabytes(models)} for the model), {gigabytes(needs.disk_free)} are free; "
            f"make room, lower {plan.kind}.args.save_total_limit (now {args.save_total_limit}), or use lora"
        )
    return needs


def _count(plan: TrainPlan, config: Any, peft_config: Any) -> tuple[int, int]:
    """Parameters and trainable ones, of a model without memory behind it."""
    with undivided(), torch.device("meta"):
        if plan.kind == "reward":
            config.num_labels = 1
            model = AutoModelForSequenceClassification.from_config(config)
        else:
            model = AutoModelForCausalLM.from_config(config)
        whole = sum(weights.numel() for weights in model.parameters())
        if peft_config is None:
            return whole, whole
        adapted = get_peft_model(model, peft_config)
        return whole, sum(own.numel() for own in adapted.parameters() if own.requires_grad)


def _width(dtype: Any, config: Any) -> int:
    """Bytes of one weight."""
    if dtype in ("auto", None):
        dtype = config.dtype or torch.float32
    width: int = (getattr(torch, dtype) if isinstance(dtype, str) else dtype).itemsize
    return width


def _optimizer_width(name: str, width: int) -> int:
    """Bytes that the optimizer keeps of one weight: two numbers as wide as it, for Adam and what is like it."""
    if "adafactor" in name or name == "sgd":
        return 0
    return (1 if "8bit" in name else width) * (1 if "lion" in name or "rmsprop" in name else 2)


def _memory(
    plan: TrainPlan, args: Any, parameters: int, trainable: int, width: int, states: int
) -> dict[str, int]:
    quantized = (args.model_init_kwargs or {}).get("quantization_config") or {}
    each = 0.5 if quantized.get("load_in_4bit") else 1 if quantized.get("load_in_8bit") else width
    held = {
        "weights": int(parameters * each) + (trainable * width if plan.lora is not None else 0),
        "gradients": trainable * width,
        "optimizer": states,
    }
    if _holds_reference(plan, args):
        held["reference"] = parameters * width
    if plan.reward_model is not None:
        held["reward model"] = _size(Path(plan.reward_model).glob("*.safetensors"))
    sharded = _sharded()
    return {name: size // args.world_size if name in sharded else size for name, size in held.items()}


def _holds_reference(plan: TrainPlan, args: Any) -> bool:
    """Whether a second copy of the model stays in memory; with an adapter the reference is the model without it."""
    if plan.lora is not None:
        return False
    if plan.kind in ("dpo", "kto"):
        return not args.precompute_ref_log_probs
    return plan.kind in REWARDED and args.beta != 0


def _sharded() -> tuple[str, ...]:
    """What is divided among the processes, as accelerate tells each of them."""
    stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0"))
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" or stage == 3:
        return ("weights", "gradients", "optimizer", "reference")
    return {1: ("optimizer",), 2: ("optimizer", "gradients")}.get(stage, ())


def _checkpoints_at_once(args: Any, rows: int) -> int:
    """Most that lie on disk together: a new one is written before the oldest goes."""
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    if strategy == "no":
        return 0
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = args.max_steps if args.max_steps > 0 else math.ceil(rows / batch) * args.num_train_epochs
    interval = args.save_steps if args.save_steps >= 1 else args.save_steps * steps
    saves: int = math.ceil(args.num_train_epochs if strategy == "epoch" else steps / interval)
    limit: int | None = args.save_total_limit
    return saves if limit is None else min(saves, limit + 1)


def _size(paths: Any) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
