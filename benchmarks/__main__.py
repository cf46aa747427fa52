"""`make bench`: every benchmark in turn, with sizes that take about an hour on two cores; tables and JSON files.

    python -m benchmarks                     # all
    python -m benchmarks throughput faults   # some
    python -m benchmarks --quick             # small sizes: does everything run?

Each benchmark is a program of its own with options of its own (`python -m benchmarks.throughput --help`); its
result lies in outputs/bench/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETS: dict[str, tuple[tuple[str, ...], ...]] = {
    "capacity": (("benchmarks.capacity",),),
    "throughput": (
        ("benchmarks.throughput", "--repeats", "5", "--pin"),
        ("benchmarks.throughput", "--repeats", "1", "--pin", "--rows", "20000",
         "--contenders", "aiohttp", "core"),
    ),
    "faults": (("benchmarks.faults", "--repeats", "5", "--target", "500"),),
    "memory": (("benchmarks.memory",),),
    "engine": (("benchmarks.engine",),),
    "judging": (("benchmarks.judging",),),
    "promise": (("benchmarks.promise", "--truth"),),
}  # fmt: skip
QUICK: dict[str, tuple[tuple[str, ...], ...]] = {
    "capacity": (("benchmarks.capacity", "--calls", "2000"),),
    "throughput": (("benchmarks.throughput", "--rows", "50", "--repeats", "1", "--latency", "0.01"),),
    "faults": (("benchmarks.faults", "--rows", "50", "--repeats", "1", "--latency", "0.01"),),
    "memory": (("benchmarks.memory", "--sizes", "50", "100"),),
    "engine": (("benchmarks.engine", "--prompts", "16", "--repeats", "1"),),
    "judging": (("benchmarks.judging", "--pairs", "6"),),
    "promise": (("benchmarks.promise", "--truth", "--halves", "60"),),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks; 1 where one of them failed, after all have run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*SETS, []], metavar="NAME", help=", ".join(SETS))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--distilabel", help="throughput: a Python with distilabel in it")
    options = parser.parse_args(arguments)
    failed = []
    for name in options.names or SETS:
        for command in (QUICK if options.quick else SETS)[name]:
            more = ["--distilabel", options.distilabel] if name == "throughput" and options.distilabel else []
            done = subprocess.run([sys.executable, "-m", *command, *more], cwd=ROOT, check=False)
            if done.returncode:
                failed.append(" ".join(command))
    for line in failed:
        sys.stderr.write(f"failed: python -m {line}\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
