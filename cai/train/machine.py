"""What a training could use, and what of it is in use; nothing is switched on here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from cai.train.findings import Machine


def detect(args: Any) -> Machine:
    """The device of this process and the optional packages beside it."""
    on_gpu = args.device.type == "cuda"
    return Machine(
        device=torch.cuda.get_device_name(args.device) if on_gpu else args.device.type,
        processes=args.world_size,
        cuda=torch.version.cuda,
        bf16=torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else False,
        uses_bf16=bool(args.bf16),
        flash_attn=_version("flash-attn"),
        attention=(args.model_init_kwargs or {}).get("attn_implementation"),
        liger_kernel=_version("liger-kernel"),
        uses_liger_kernel=bool(args.use_liger_kernel),
        kernels=_version("kernels"),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
