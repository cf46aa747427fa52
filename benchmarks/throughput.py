"""The same job by bare clients, by the pipeline and by a peer, on one loopback server in one run.

1,000 rows of five calls by default, at each concurrency, every contender in turn and the whole round repeated; the
figures are medians, the ratios are to the bare aiohttp client. Rows a second are counted while calling, from
the first call to the last answer as the server saw them; CPU time and memory are those of the contender's whole
process tree. `--pin` gives the contender one core and the server another.

    python -m benchmarks.throughput --repeats 5 --pin
    python -m benchmarks.throughput --rows 20000 --contenders aiohttp core
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

from benchmarks.clients import CLIENTS
from benchmarks.job import CALLS, write_config, write_prompts
from benchmarks.loopback import Server, Stats, loopback
from benchmarks.replies import Behaviour
from benchmarks.tables import Column, print_table, save
from benchmarks.watch import Watched, watch

ROOT = Path(__file__).parent.parent
PEER = "benchmarks.peers.distilabel_job"
PIPELINES = {"core": ("-m", "cai", "run", "--no-prefect"), "prefect": ("-m", "flows", "pipeline")}
CONTENDERS = (*CLIENTS, *PIPELINES, "distilabel")
REFERENCE = "aiohttp"
WHO = (Column("contender", "contender"), Column("concurrency", "limit", "{:.0f}"))
SPEED = (
    *WHO,
    Column("calls", "calls", "{:,.0f}"),
    Column("rows_per_s", "rows/s calling", "{:.1f}"),
    Column("ratio", "ratio", "{:.2f}"),
    Column("rows_per_s_overall", "rows/s overall", "{:.1f}"),
    Column("start_s", "s to first call", "{:.2f}"),
    Column("rerun_s", "re-run, s", "{:.2f}"),
    Column("rerun_calls", "its calls", "{:.0f}"),
    Column("note", "note"),
)
COST = (
    *WHO,
    Column("cpu_s_per_1000", "CPU s/1,000 calls", "{:.3f}"),
    Column("cpu_s_per_1000_calling", "while calling", "{:.3f}"),
    Column("cpu_s_before", "CPU s before", "{:.1f}"),
    Column("cpu_s_after", "and after", "{:.1f}"),
    Column("peak_mb", "peak MB", "{:.0f}"),
    Column("peak_calling_mb", "while calling", "{:.0f}"),
)


def command_of(
    contender: str, server: Server, options: argparse.Namespace, limit: int, folder: Path
) -> list[str]:
    """The command line of a contender."""
    if contender == "distilabel":
        job = ["--url", server.url, "--rows", str(options.rows), "--limit", str(limit)]
        return [options.distilabel, "-m", PEER, *job, "--cache", str(folder / "cache")]
    if contender in CLIENTS:
        job = ["--url", server.url, "--rows", str(options.rows), "--limit", str(limit)]
        return [sys.executable, "-m", "benchmarks.clients", contender, *job]
    prompts = write_prompts(folder / "prompts.jsonl", options.rows)
    config = write_config(folder, server.url, prompts, limit, options.shards)
    return [sys.executable, *PIPELINES[contender], str(config)]


def measure(contender: str, server: Server, options: argparse.Namespace, limit: int) -> dict[str, Any]:
    """One contender's run, and for one that keeps its calls the same run again. Raises SystemExit where it fails."""
    with tempfile.TemporaryDirectory() as name:
        command = command_of(contender, server, options, limit, Path(name))
        server.reset()
        cpu_before = server.cpu_s()
        done, stats = run(command, server, options.pin)
        server_cpu = server.cpu_s() - cpu_before
        found = figures(done, stats, options.rows) | {
            "server_cpu_s_per_1000": server_cpu / stats.calls * 1000
        }
        if contender in PIPELINES:
            server.reset()
            again, stats = run(command, server, options.pin)
            found |= {"rerun_s": again.seconds, "rerun_calls": stats.calls}
    return found


def run(command: Sequence[str], server: Server, pin: bool) -> tuple[Watched, Stats]:
    """Run a command beside the server."""
    done = watch(command, ROOT, core=0 if pin else None)
    if done.status:
        raise SystemExit(f"{' '.join(command)} failed with status {done.status}:\n{done.output[-2000:]}")
    return done, server.stats()


def figures(done: Watched, stats: Stats, rows: int) -> dict[str, Any]:
    """What a run and the server's counters come to."""
    thousands = stats.calls / 1000
    calling_mb = done.peak_between_mb(stats.first_s, stats.last_s)
    return {
        "calls": stats.calls,
        "rows_per_s": rows / stats.seconds,
        "rows_per_s_overall": rows / done.seconds,
        "cpu_s_per_1000": done.cpu_s / thousands,
        "cpu_s_per_1000_calling": (done.cpu_at(stats.last_s) - done.cpu_at(stats.first_s)) / thousands,
        "cpu_s_before": done.cpu_at(stats.first_s),
        "cpu_s_after": done.cpu_s - done.cpu_at(stats.last_s),
        "peak_mb": done.peak_mb,
        **({"peak_calling_mb": calling_mb} if calling_mb is not None else {}),
        "start_s": stats.first_s - done.started_s,
        "seconds": done.seconds,
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every contender at every concurrency, `repeats` times in turn; medians, and ratios of paired runs."""
    chosen = [name for name in options.contenders if name != "distilabel" or options.distilabel]
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    behaviour = Behaviour(latency_s=options.latency)
    for limit in options.concurrency:
        rounds: list[dict[str, dict[str, Any]]] = []
        with loopback(behaviour, options.processes, core=1 if options.pin else None) as server:
            for repeat in range(options.repeats):
                found = {}
                for name in chosen:
                    found[name] = measure(name, server, options, limit)
                    runs.append({"contender": name, "concurrency": limit, "repeat": repeat, **found[name]})
                    sys.stderr.write(f"{limit} {name}: {found[name]['rows_per_s']:.1f} rows/s\n")
                rounds.append(found)
        for name in options.contenders:
            if name in chosen:
                rows.append({"contender": name, "concurrency": limit, **medians(rounds, name)})
            else:
                rows.append({"contender": name, "concurrency": limit, "note": "not installed"})
    settings = {
        "rows": options.rows,
        "calls_a_row": CALLS,
        "latency_s": options.latency,
        "pinned": options.pin,
    }
    return {"settings": settings | {"repeats": options.repeats}, "rows": rows, "runs": runs}


def medians(rounds: Sequence[dict[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    """A contender's medians over the rounds, and the median of its ratio to the reference of the same round."""
    mine = [found[name] for found in rounds]
    shared = [key for key in mine[0] if all(key in one for one in mine)]
    row: dict[str, Any] = {key: statistics.median(one[key] for one in mine) for key in shared}
    if REFERENCE in rounds[0]:
        row["ratio"] = statistics.median(
            found[name]["rows_per_s"] / found[REFERENCE]["rows_per_s"] for found in rounds
        )
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print and save the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the server waits per call")
    parser.add_argument("--shards", type=int, default=8, help="of the pipeline's run")
    parser.add_argument("--processes", type=int, default=2, help="of the server")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--distilabel", help="a Python with distilabel in it")
    parser.add_argument("--pin", action="store_true", help="contenders on core 0, the server on core 1")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options = parser.parse_args(arguments)
    found = compare(options)
    save(f"throughput-{options.rows}", found)
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
        return
    title = f"{options.rows:,} rows × {CALLS} calls, {options.latency * 1000:g} ms a call"
    print_table(title, SPEED, found["rows"])
    print_table(f"{title}: CPU and memory", COST, found["rows"])


if __name__ == "__main__":
    main()
