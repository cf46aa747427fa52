"""Base → SFT → DPO with each loss on the embedded world, and losses under wrong labels; seeds with intervals.

    python -m benchmarks.losses            # trains and measures what is missing, then writes the tables
    python -m benchmarks.losses --tables   # writes the tables of docs/losses.md from the committed result alone

One run of the demo's data part makes the dataset (outputs/bench-losses/data). Each seed trains an SFT model on it,
and from that model one for each loss, through the pipeline's own launcher. It takes hours on two cores: a checkpoint
that is measured is kept as figures (outputs/bench-losses/cells) and never made again, so kill it at any time. All
figures are in benchmarks/results/losses.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.losses_cells import (
    LOSSES,
    MORE,
    SETTINGS,
    UNDER_NOISE,
    Cell,
    clean,
    flipped,
    noisy,
    rows_of,
    section,
)
from benchmarks.losses_kept import read_kept, write_result
from benchmarks.losses_tables import DOCS, write_tables
from cai.store import write_json

ROOT = Path(__file__).parent.parent
FOLDER = Path("outputs") / "bench-losses"
RESULT = Path("benchmarks") / "results" / "losses.json"
CONFIG = "flows/configs/embedded.yaml"
BASE = Path("cai") / "embedded" / "weights"
HELD_OUT = "evaluate.jsonl"
RATES = [0.2, 0.4, 0.1, 0.3]  # of wrong labels, those first that show most


def make_data(folder: Path) -> None:
    """Run the demo's config up to its dataset, once."""
    if (folder / "data" / "dataset" / "preference" / "train.jsonl").is_file():
        return
    changes = {"name": "data", "outputs": str(folder), "sft": "null", "dpo": "null", "evaluate": "null"}
    more = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    subprocess.run([sys.executable, "-m", "cai", "run", CONFIG, "--no-prefect", *more], cwd=ROOT, check=True)


def run_cell(folder: Path, cell: Cell) -> dict[str, Any]:
    """The figures of a cell: as they were kept, or trained and measured now. The weights are kept of SFT only.

    Raises what `launch` raises.
    """
    kept = folder / "cells" / f"{cell.name}.json"
    if cell.method == "base":
        return _measured(kept, cell, BASE, "base", None)
    task, digest = planned(folder, cell)
    out: Path = task["out"]
    found = read_kept(kept, digest)
    if found is not None and (cell.method != "sft" or out.is_dir()):
        return found
    from cai.train.launch import launch

    report = launch(cell.kind, **task, log=folder / "logs" / f"{cell.name}.log")
    more = {"steps": report.steps, "loss": report.loss, "flipped": flipped(cell, task["data"])}
    reference = None
    if cell.method not in ("sft", "orpo"):
        reference = json.loads(_pairs_of(folder, cell.seed).read_text())
    found = _measured(kept, cell, out, digest, reference, **more)
    if cell.method != "sft":
        shutil.rmtree(out)
    return found


def planned(folder: Path, cell: Cell) -> tuple[dict[str, Any], str]:
    """What the launcher is told of a cell, and the digest of all that its weights follow from."""
    from cai.train.plan import make_plan

    sft = folder / "models" / Cell(cell.seed, "sft").name
    task: dict[str, Any] = {
        "model": str(BASE if cell.method in ("sft", "orpo") else sft),
        "data": rows_of(cell, folder),
        "out": folder / "models" / cell.name,
        "config": section(cell),
        "seed": cell.seed,
    }
    return task, make_plan(cell.kind, **task).digest


def _measured(
    kept: Path, cell: Cell, weights: Path, digest: str, reference: Any, **more: Any
) -> dict[str, Any]:
    """Measure a checkpoint and keep the figures under its digest."""
    known = read_kept(kept, digest)
    if known is not None:
        return known
    from benchmarks.losses_replies import measure, prefers_better

    measured = measure(weights, HELD_OUT, cell.seed)
    pairs = measured.pop("pairs")
    if reference is not None:
        measured["prefers_better"] = prefers_better(pairs, reference)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if cell.method == "sft":
        write_json(_pairs_of(kept.parents[1], cell.seed), pairs)
    found = {**cell._asdict(), **more, **measured, "digest": digest, "settings": SETTINGS}
    write_json(kept, found)
    return found


def _pairs_of(folder: Path, seed: int) -> Path:
    """Log-probabilities of the held-out pairs by a seed's SFT model."""
    return folder / "pairs" / f"s{seed}.json"


def run_all(folder: Path, cells: Sequence[Cell], jobs: int, result: Path) -> int:
    """Run cells, those at the front first; the result is written after each. Returns how many failed."""
    failed = done = 0
    first = [one for one in cells if one.method == "sft"]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_end_with_parent) as pool:
        for batch in (first, [one for one in cells if one not in first]):
            waiting = {pool.submit(run_cell, folder, cell): cell for cell in batch}
            for one in as_completed(waiting):
                error = one.exception()
                failed, done = failed + (error is not None), done + 1
                _say(f"{done} of {len(cells)}: {waiting[one].name}{f': failed: {error}' if error else ''}")
                write_result(result, folder)
    return failed


def _end_with_parent() -> None:
    """End this worker, and by its lifeline its training, when the program is killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and measure what is missing, then write the tables; 1 where a training failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ["instance", "symmetric"]
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", choices=[*LOSSES, *MORE], default=[*LOSSES], help="no noise")
    parser.add_argument("--noise", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--rates", nargs="*", type=float, default=RATES, help="share of wrong labels")
    parser.add_argument("--noisy-methods", nargs="*", choices=UNDER_NOISE, default=[*UNDER_NOISE])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the committed result")
    options = parser.parse_args(arguments)
    failed = 0
    if not options.tables:
        make_data(FOLDER)
        seeds = range(options.seeds)
        cells = [one for seed in seeds for one in clean(["base", "sft", *options.methods], seed)]
        cells += [
            one
            for kind in options.noise
            for seed in seeds
            for one in noisy(options.noisy_methods, kind, options.rates, seed)
        ]
        failed = run_all(FOLDER, cells, options.jobs, RESULT)
    write_tables(DOCS, json.loads(RESULT.read_text()))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
