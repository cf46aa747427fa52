"""Memory of the pipeline over the number of rows, against a server that answers at once.

A run without Prefect for each size, watched from outside: the peak of its process tree, and the curve over the run. The
prompts stream from a file and texts are short, so what grows is what the pipeline itself keeps for a row.

    python -m benchmarks.memory --sizes 10000 100000
    python -m benchmarks.memory --sizes 10000 1000000      # hours, and some 15 GB of disk
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks.job import CALLS, write_config, write_prompts
from benchmarks.loopback import loopback
from benchmarks.replies import Behaviour
from benchmarks.tables import Column, print_table, save
from benchmarks.throughput import PIPELINES, run

POINTS = 60  # of a curve
COLUMNS = (
    Column("rows", "rows", "{:,.0f}"),
    Column("calls", "calls", "{:,.0f}"),
    Column("peak_mb", "peak MB", "{:.0f}"),
    Column("peak_calling_mb", "while calling", "{:.0f}"),
    Column("growth_mb", "growth MB", "{:.0f}"),
    Column("rows_per_s", "rows/s calling", "{:.0f}"),
    Column("seconds", "seconds", "{:.0f}"),
)


def measure(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run. Gives its peaks in MB and the curve: seconds since the start, MB."""
    behaviour = Behaviour(sentences=1)
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        loopback(behaviour, options.processes) as server,
    ):
        prompts = write_prompts(Path(name) / "prompts.jsonl", rows, sentences=1)
        config = write_config(Path(name), server.url, prompts, options.limit, options.shards)
        done, stats = run([sys.executable, *PIPELINES["core"], str(config)], server, pin=False)
    every = max(1, len(done.samples) // POINTS)
    return {
        "rows": rows,
        "calls": stats.calls,
        "peak_mb": done.peak_mb,
        "peak_calling_mb": done.peak_between_mb(stats.first_s, stats.last_s),
        "rows_per_s": rows / stats.seconds,
        "seconds": done.seconds,
        "curve": [(round(s.at_s - done.started_s, 1), round(s.mb, 1)) for s in done.samples[::every]],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all sizes, the smallest first; print and save the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--limit", type=int, default=64, help="concurrent calls")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2, help="of the server")
    parser.add_argument("--folder", help="where the runs lie while they are measured")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options = parser.parse_args(arguments)
    rows = [measure(size, options) for size in sorted(options.sizes)]
    for row in rows[1:]:
        row["growth_mb"] = row["peak_mb"] - rows[0]["peak_mb"]
    found = {"settings": {"concurrency": options.limit, "shards": options.shards}, "rows": rows}
    save("memory", found)
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
        return
    print_table(f"memory of a run of {CALLS} calls a row", COLUMNS, rows)


if __name__ == "__main__":
    main()
