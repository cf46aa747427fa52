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


class Texts(_Frozen):
    """Hostile texts among the rows. `defused`: rows in which turn tokens were broken up (for kto: those of such pairs).

    `unwritable`: rows left out because a text of theirs holds half a surrogate pair.
    """

    defused: int = 0
    unwritable: int = 0


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


class Speed(_Frozen):
    """What a training took of the machine. `tokens_per_s`: over all processes, from the second step on; None for one
    step, and where TRL counts no tokens.

    `mfu`: share of the devices' bf16 peak (`cai.train.speed`), None on a CPU and on a GPU that the table lacks.
    `peak_memory`: bytes, of the first process's GPU, or of its memory without one.
    """

    tokens_per_s: float | None
    mfu: float | None
    peak_memory: int


class Findings(_Frozen):
    """All of it. `rows` is None for a training on its own replies, which has no rows to cut."""

    rows: RowCounts | None
    needs: Needs
    machine: Machine
    texts: Texts = Texts()


def told(found: Findings) -> list[str]:
    """What was found as lines for people: the machine, memory and disk, the rows."""
    lines = [_machine(found.machine), _needs(found.needs), *_texts(found.texts)]
    return lines if found.rows is None else [*lines, _rows(found.rows)]


def speed_told(speed: Speed) -> str:
    """Speed and memory as one line for people; what was not measured is left out."""
    parts = []
    if speed.tokens_per_s is not None:
        parts.append(f"{speed.tokens_per_s:,.0f} tokens/s")
    if speed.mfu is not None:
        parts.append(f"MFU {speed.mfu:.1%}")
    return ", ".join([*parts, f"peak memory {gigabytes(speed.peak_memory)}"])


def gigabytes(size: float) -> str:
    """A number of bytes in GB (10⁹), with the digits that an estimate has."""
    return f"{size / 1e9:.3g} GB"


def listed(dropped: dict[str, int]) -> str:
    """Rows left out, by reason."""
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped.items())


def _machine(machine: Machine) -> str:
    def package(name: str, found: str | None) -> str:
        return f"{name} {found or 'absent'}"

    used = "in use" if machine.uses_bf16 else "not in use"
    liger = " (in use)" if machine.uses_liger_kernel else ""
    return (
        f"found: {machine.processes} × {machine.device}, {package('CUDA', machine.cuda)}, "
        f"bf16 {'there' if machine.bf16 else 'absent'} and {used}, attention {machine.attention or 'by default'}, "
        f"{package('flash-attn', machine.flash_attn)}, {package('liger-kernel', machine.liger_kernel)}{liger}, "
        f"{package('kernels', machine.kernels)}"
    )


def _needs(needs: Needs) -> str:
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in needs.memory.items())
    device = f" of {gigabytes(needs.device)} on the GPU" if needs.device else ""
    return (
        f"memory of each process: about {gigabytes(sum(needs.memory.values()))}{device} before activations ({parts}); "
        f"{needs.trainable} of {needs.parameters} parameters trained; disk: about {gigabytes(needs.disk)} of "
        f"{gigabytes(needs.disk_free)} free"
    )


def _texts(texts: Texts) -> list[str]:
    lines = []
    if texts.defused:
        lines.append(
            f"turn tokens stood in the texts of {texts.defused} rows; they were broken up with a word joiner"
        )
    if texts.unwritable:
        lines.append(
            f"left out: {texts.unwritable} rows with half a surrogate pair, which no tokenizer takes"
        )
    return lines


def _rows(counts: RowCounts) -> str:
    limit = "no max_length" if counts.max_length is None else f"max_length {counts.max_length}"
    left_out = f"; left out: {listed(counts.dropped)}" if counts.dropped else ""
    return f"rows: {counts.rows}, longest {counts.longest} tokens, {counts.cut} cut at {limit}{left_out}"
