"""How much of the machine a training uses: model FLOPs utilisation and peak memory, beside the tokens a second.

MFU is what the model's passes need by its shape, over what the devices could do in that time in bf16 (Chowdhery et
al. 2022, PaLM, appendix B). Counted: 2 FLOPs a token and multiplied parameter for the forward pass and for the
gradients of activations, and again for those of each trained parameter. Not counted: attention itself (a few per
cent at 1,000 tokens), what is recomputed under gradient checkpointing, and a reference's passes; so it is never
too high.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import torch
import yaml

_GPUS: dict[str, float] = yaml.safe_load((Path(__file__).parent / "gpus.yaml").read_text(encoding="utf-8"))


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def flops_per_token(model: Any) -> float | None:
    """FLOPs of one training step for each token of the batch, over all devices.

    None for a mixture of experts, of which a token meets only some, and where the parameters are not to be seen.
    """
    if any(getattr(model.config.get_text_config(), name, None) for name in _EXPERTS):
        return None
    forward = trained = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            continue  # rows are looked up; a head that shares them is a linear layer of its own
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1:
                forward += parameter.numel()
                trained += parameter.numel() * parameter.requires_grad
    return 4.0 * forward + 2.0 * trained if forward else None


def peak_flops(device: torch.device) -> float | None:
    """What one device can do, in FLOP/s; None for one that the table does not have, and for a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in _GPUS.items() if part.lower() in name.lower()), None)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far: on its GPU, or of the machine's memory without one."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
