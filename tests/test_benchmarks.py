"""Benchmarks run, and print the ratios that speed claims are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_overhead() -> None:
    """A small run of `make bench` prints one JSON object with the ratios against the bare client."""
    command = [
        sys.executable,
        "benchmarks/overhead.py",
        "--rows",
        "40",
        "--repeats",
        "1",
        "--latency",
        "0.01",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["calls"] == 200
    assert found["rows_per_s_ratio"] > 0.2
    assert found["rerun_done_s"] < found["bare"]["seconds"]
