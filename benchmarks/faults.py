"""The pipeline on a faulty server against the same run on a good one: what comes out, and how much later.

By default 5 % of the calls are answered 429 (every second one with `Retry-After`), 2 % with 500, and 2 % of the
verdicts are malformed: a critique without its last line, a choice in prose. Which calls is decided by a seed, the
request and how often it was seen, so both runs can be repeated and a retry can succeed. With `--target`, a
run that draws prompts until so many pairs are there, where the judge leaves a share undecided.

    python -m benchmarks.faults --rows 1000 --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
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

CLEAN, FAULTY = "clean", "faulty"
COLUMNS = (
    Column("server", "server"),
    Column("rows", "rows", "{:,.0f}"),
    Column("rows_out", "pairs out", "{:,.0f}"),
    Column("calls", "calls", "{:,.0f}"),
    Column("rate_limit", "429", "{:,.0f}"),
    Column("server_error", "500", "{:,.0f}"),
    Column("malformed", "malformed", "{:,.0f}"),
    Column("seconds_calling", "seconds calling", "{:.2f}"),
    Column("seconds", "overall", "{:.2f}"),
    Column("ratio", "ratio calling", "{:.2f}"),
    Column("ratio_overall", "overall", "{:.2f}"),
)
TARGET_COLUMNS = (
    Column("target", "target", "{:,.0f}"),
    Column("pairs", "pairs", "{:,.0f}"),
    Column("undecided", "undecided share", "{:.2f}"),
    Column("calls", "calls", "{:,.0f}"),
    Column("rows_asked", "rows asked", "{:,.0f}"),
    Column("needed", "rows needed", "{:,.0f}"),
    Column("over_asked", "over-asked", "{:,.0f}"),
    Column("concurrency", "concurrency", "{:.0f}"),
)


def measure(behaviour: Behaviour, options: argparse.Namespace, rows: int, **pairs: Any) -> dict[str, Any]:
    """One run of the pipeline against a server that behaves so; `pairs`: of the config."""
    with tempfile.TemporaryDirectory() as name, loopback(behaviour, options.processes) as server:
        folder = Path(name)
        prompts = write_prompts(folder / "prompts.jsonl", rows)
        changes: dict[str, Any] = {"pairs": pairs} if pairs else {}
        config = write_config(folder, server.url, prompts, options.limit, options.shards, **changes)
        done, stats = run([sys.executable, *PIPELINES["core"], str(config)], server, pin=False)
        root = folder / "outputs" / "bench"
        out = (root / "dataset" / "preference" / "train.jsonl").read_bytes().count(b"\n")
        reached = orjson.loads((root / "target.json").read_bytes()) if pairs else None
    return {
        "rows": rows,
        "rows_out": out,
        "calls": stats.calls,
        **stats.faults,
        "seconds_calling": stats.seconds,
        "seconds": done.seconds,
        **({"reached": reached} if reached else {}),
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Clean and faulty runs in turn; medians, and the median ratio of a faulty run to the clean one beside it."""
    clean = Behaviour(latency_s=options.latency, seed=options.seed)
    faulty = clean._replace(
        rate_limited=options.rate_limited, failing=options.failing, malformed=options.malformed
    )
    rounds = []
    for _ in range(options.repeats):
        pair = {name: measure(b, options, options.rows) for name, b in ((CLEAN, clean), (FAULTY, faulty))}
        rounds.append(pair)
    rows = []
    for name in (CLEAN, FAULTY):
        mine = [pair[name] for pair in rounds]
        rows.append({"server": name} | {key: statistics.median(one[key] for one in mine) for key in mine[0]})
    for figure, ratio in (("seconds_calling", "ratio"), ("seconds", "ratio_overall")):
        rows[1][ratio] = statistics.median(pair[FAULTY][figure] / pair[CLEAN][figure] for pair in rounds)
    settings = {"repeats": options.repeats, "concurrency": options.limit, "latency_s": options.latency}
    found: dict[str, Any] = {"settings": settings, "rows": rows, "runs": rounds}
    if options.target:
        found["target"] = target(options, clean._replace(undecided=options.undecided))
    return found


def target(options: argparse.Namespace, behaviour: Behaviour) -> dict[str, Any]:
    """A run that stops at `options.target` pairs, and how many rows it asked about behind the one with the last."""
    done = measure(behaviour, options, 4 * options.target, target=options.target)
    reached = done["reached"]
    needed = int(reached["prompt"].removeprefix("p")) + 1
    return {
        "target": options.target,
        "pairs": done["rows_out"],
        "undecided": options.undecided,
        "calls": done["calls"],
        "rows_asked": reached["drawn"],
        "needed": needed,
        "over_asked": reached["drawn"] - needed,
        "concurrency": options.limit,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print and save the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=64, help="concurrent calls")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the server waits per call")
    parser.add_argument("--rate-limited", type=float, default=0.05)
    parser.add_argument("--failing", type=float, default=0.02)
    parser.add_argument("--malformed", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--target", type=int, help="also a run that stops at so many pairs")
    parser.add_argument("--undecided", type=float, default=0.3, help="share of pairs without a label, there")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2, help="of the server")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options = parser.parse_args(arguments)
    found = compare(options)
    save("faults", found)
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
        return
    print_table(f"{options.rows:,} rows × {CALLS} calls, good and faulty server", COLUMNS, found["rows"])
    if options.target:
        print_table("a target of pairs", TARGET_COLUMNS, [found["target"]])


if __name__ == "__main__":
    main()
