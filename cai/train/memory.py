"""What to change in a training that ran out of memory: which options, from which values to which. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai.config.training import REWARDED
from cai.train.plan import TrainPlan

# TRL's own values where the user gave none.
TRL_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": True,
    "max_length": 1024,
    "max_completion_length": 512,
    "dataloader_num_workers": 0,
    "dataset_num_proc": None,
}
LORA_RANK = 16


def knobs(plan: TrainPlan) -> str:
    """What takes the most memory of the device, with the values to set; the first of them changes no result."""
    parts = [*_smaller_batch(plan)]
    if not _value(plan, "gradient_checkpointing"):
        parts.append("gradient_checkpointing false → true")
    if plan.kind in ("dpo", "kto") and not plan.args["precompute_ref_log_probs"] and plan.lora is None:
        parts.append("precompute_ref_log_probs false → true")
    length = "max_completion_length" if plan.kind in REWARDED else "max_length"
    if (tokens := _value(plan, length)) is not None and int(tokens) > 1:
        parts.append(f"{length} {tokens} → {int(tokens) // 2}")
    options = [f"in {plan.kind}.args set {', or '.join(parts)}"] if parts else []
    if plan.lora is None:
        options.append(f"{plan.kind}.lora: {{r: {LORA_RANK}}}")
    return "; or ".join(options) or (
        f"nothing in {plan.kind}.args is left to lower; take more GPUs ({plan.kind}.accelerate.config_file)"
    )


def host_knobs(plan: TrainPlan) -> str:
    """What takes the memory of the machine where the model is on a GPU."""
    parts = [
        f"{plan.kind}.args.{name} {value} → {fewer}"
        for name, fewer in (("dataloader_num_workers", 0), ("dataset_num_proc", 1))
        if (value := _value(plan, name)) is not None and int(value) > fewer
    ]
    parts.append(f"fewer processes on it ({plan.kind}.accelerate.num_processes), as each loads the weights")
    return f"the machine's own memory, not the GPU's: {', or '.join(parts)}"


def oom_kills() -> int | None:
    """How many processes the kernel has ended for want of memory since it started; None where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _smaller_batch(plan: TrainPlan) -> list[str]:
    """As many rows a step in smaller batches: the batch through its smallest divisor."""
    batch, steps = (
        int(_value(plan, name)) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    if batch < 2:
        return []
    by = next(divisor for divisor in range(2, batch + 1) if batch % divisor == 0)
    return [
        f"per_device_train_batch_size {batch} → {batch // by} with gradient_accumulation_steps {steps} → {steps * by}"
    ]


def _value(plan: TrainPlan, name: str) -> Any:
    return plan.args.get(name, TRL_DEFAULTS[name])
