"""What the comparison of losses trains: one cell is one checkpoint, by its seed, loss and label noise.

All cells of a seed start from the same SFT model (ORPO from the base) and see the same pairs, drawn by the seed
from those of one run. All losses have one setting of rate, batch, epochs and β: none is tuned for itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.losses_noise import Noise, label, relabel
from benchmarks.losses_world import turns, winner
from cai.config import DpoConfig, Kind, TrainingConfig
from cai.store import write_text

PAIRS = 256  # a training: 16 steps
DOUBT = 0.1  # what robust and cDPO take for the share of wrong labels where none was put in
COMMON: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "save_strategy": "no",
}
SFT_RATE = 4.0e-5  # the demo's is 7e-5 and two epochs, after which nothing is left to be made harmless
PREFERENCE: dict[str, Any] = COMMON | {"learning_rate": 1.0e-4, "beta": 1.0}
LOSSES = ("sigmoid", "sigmoid+sft", "ipo", "robust", "cdpo", "soft")  # of DPO
MORE: dict[str, tuple[Kind, dict[str, Any]]] = {  # trainings of their own
    "kto": ("kto", {}),
    "orpo": ("orpo", {}),
    "cpo": ("cpo", {"loss_type": "sigmoid"}),
    "simpo": ("cpo", {"loss_type": "simpo"}),
}
UNDER_NOISE = ("sigmoid", "soft", "robust")
# What every figure depends on besides its cell; figures of other settings are not shown beside each other.
SETTINGS: dict[str, Any] = {
    "sft_learning_rate": SFT_RATE,
    "preference": PREFERENCE,
    "pairs": PAIRS,
    "doubt": DOUBT,
    "sampling": {"temperature": 0.8, "max_tokens": 64},
    "held_out_pairs": 250,
}


class Cell(NamedTuple):
    """One checkpoint. `method`: base, sft, one of LOSSES or of MORE; `rate`: share of labels made wrong."""

    seed: int
    method: str
    noise: Noise | None = None
    rate: float = 0.0

    @property
    def name(self) -> str:
        """Names its files."""
        noisy = f"{self.noise}-{round(100 * self.rate)}-" if self.noise else ""
        return f"{noisy}{self.method}-s{self.seed}"

    @property
    def kind(self) -> Kind:
        """The training section that it is."""
        return "sft" if self.method == "sft" else MORE[self.method][0] if self.method in MORE else "dpo"


def clean(methods: Iterable[str], seed: int) -> Iterator[Cell]:
    """The cells of one seed without noise, after its base and SFT."""
    return (Cell(seed, method) for method in methods)


def noisy(methods: Iterable[str], noise: Noise, rates: Iterable[float], seed: int) -> Iterator[Cell]:
    """The cells of one seed under noise; at rate 0 all of UNDER_NOISE would be the clean sigmoid."""
    methods = tuple(methods)
    return (Cell(seed, method, noise, rate) for rate in rates for method in methods)


def section(cell: Cell) -> TrainingConfig:
    """The training section of a cell, in TRL's own option names."""
    threads = {"num_cpu_threads_per_process": 1}
    if cell.method == "sft":
        return TrainingConfig(args=COMMON | {"learning_rate": SFT_RATE}, accelerate=threads)
    if cell.method in MORE:
        return TrainingConfig(args=PREFERENCE | MORE[cell.method][1], accelerate=threads)
    loss: dict[str, Any] = {"loss_type": "sigmoid"}
    soft_labels: bool | float = False
    match cell.method:
        case "sigmoid+sft":
            loss = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}
        case "ipo":
            loss = {"loss_type": "ipo"}
        case "robust":
            loss = {"loss_type": "robust", "label_smoothing": cell.rate or DOUBT}
        case "cdpo":
            soft_labels = 1 - (cell.rate or DOUBT)
        case "soft":
            soft_labels = True
    return DpoConfig(args=PREFERENCE | loss, accelerate=threads, soft_labels=soft_labels)


def rows_of(cell: Cell, folder: Path) -> Path:
    """The file of rows that a cell learns from, written where it is not there. `folder` holds the run `data`."""
    if cell.kind == "sft":
        return folder / "data" / "dataset" / "sft" / "train.jsonl"
    noisy_part = f"{cell.noise}-{round(100 * cell.rate)}-" if cell.noise else ""
    target = folder / "rows" / f"{noisy_part}s{cell.seed}.jsonl"
    rows = drawn(folder / "data" / "dataset" / "preference" / "train.jsonl", cell.seed)
    if cell.noise is not None:
        rows = [relabel(row, label(cell.noise, cell.rate, cell.seed, row["id"])) for row in rows]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, "".join(json.dumps(row) + "\n" for row in rows))
    return target


def drawn(source: Path, seed: int) -> list[dict[str, Any]]:
    """The seed's pairs, of those whose label is right by the exact rules."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    right = [
        row
        for row in rows
        if winner(turns(row["prompt"]), row["chosen"][0]["content"], row["rejected"][0]["content"]) == "A"
    ]
    return random.Random(f"{seed}/pairs").sample(right, min(PAIRS, len(right)))


def flipped(cell: Cell, rows: Path) -> float | None:
    """The share of a noisy cell's labels that were made wrong."""
    if cell.noise is None:
        return None
    ids = [json.loads(line)["id"] for line in rows.read_text(encoding="utf-8").splitlines()]
    return sum(label(cell.noise, cell.rate, cell.seed, one).flipped for one in ids) / len(ids)
