"""NVIDIA GPUs as their driver and as torch see them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from typing import NamedTuple

from cai.doctor.stated import installed

QUERY = "index,name,memory.total,memory.free,driver_version"
DEADLINE_S = 20


class Gpu(NamedTuple):
    """One card. `told`: name, memory in MiB and driver, in words."""

    number: str
    told: str


@cache
def graphics() -> tuple[Gpu, ...]:
    """The cards that `nvidia-smi` lists; none where it is missing, fails or hangs."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        done = subprocess.run(
            [tool, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=False, timeout=DEADLINE_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return tuple(
        Gpu(number, f"{name}, {total} MiB ({free} free), driver {driver}")
        for number, name, total, free, driver in (row for row in rows if len(row) == len(QUERY.split(",")))
    )


def seen_by_torch() -> str:
    """Why torch cannot use the cards; "" where it can. Imports torch only where its build could."""
    build = installed("torch")
    if build is None:
        return "not installed"
    if build.endswith("+cpu"):
        return f"{build} is the build for CPU"
    import torch

    if torch.cuda.is_available():
        return ""
    return f"{build} (CUDA {torch.version.cuda}) sees no GPU; the driver may be too old for it"
