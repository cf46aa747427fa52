"""What a training finds out before its first step: numbers of its report. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowCounts(_Frozen):
    """Rows against `max_length`. `longest`: tokens of the longest row, a pair's longer side; where
    no row can be too long by its bytes, of the row with the most bytes in each thousand.

    `cut`: rows longer than `max_length`. `dropped`: rows left out of the training, by reason.
    """

    rows: int
    longest: int
    max_length: int | None
    cut: int
    dropped: dict[str, int]


class Needs(_Frozen):
    """Estimates in bytes. `memory`: of each process, by what takes it, without activations.

    `device`: memory of the GPU, None without one. `disk`: checkpoints and models at their peak; `disk_free`: what
    the output folder has, with the checkpoints that are there already.
    """

    parameters: int
    trainable: int
    memory: dict[str, int]
    device: int | None
    disk: int
    disk_free: int


class Machine(_Frozen):
    """What the training process sees, and what of it is in use. Of a package: its version, None where absent.

    `processes`: of the training, over all machines. `bf16` and `uses_bf16`: the device has it, and it is on.
    `attention`: the implementation asked for, None for transformers' own choice.
    """

    device: str
    processes: int
    cuda: str | None
    bf16: bool
    uses_bf16: bool
    flash_attn: str | None
    attention: str | None
    liger_kernel: str | None
    uses_liger_kernel: bool
    kernels: str | None


class Findings(_Frozen):
    """All of it. `rows` is None for a training on its own replies, which has no rows to cut."""

    rows: RowCounts | None
    needs: Needs
    machine: Machine
