"""Benchmarks run, and print the ratios that speed claims are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_promise() -> None:
    """The promise is kept in worlds whose truth is known, and on halves of a recorded judge where one is here."""
    command = [
        sys.executable,
        "benchmarks/promise.py",
        "--truth",
        "--halves",
        "60",
        "--target-accuracy",
        "0.7",
    ]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert found["worlds"] == 60 and found["with_a_threshold"] > 10
    assert found["broken"] <= 0.1


def test_promise_on_published_verdicts() -> None:
    """Chosen on one half of a real judge's verdicts, kept on the other in nine of ten halves."""
    file = ROOT.parent / "shared" / "data" / "judgments" / "calibration_mistral-7b-instruct.jsonl"
    if not file.is_file():
        pytest.skip("the shared data are not here")
    command = [sys.executable, "benchmarks/promise.py", str(file)]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert found["halves"] == 200 and found["with_a_threshold"] > 40
    assert found["measured_broken"] <= 0.1
