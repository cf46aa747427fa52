"""The judging benchmark runs on real vLLM, and prints the ratios that claims about one-token judging are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_judging() -> None:
    """On a few pairs: every verdict is readable, a one-token answer is one token, and JSON costs several times that."""
    command = [sys.executable, "benchmarks/judging.py", "--pairs", "6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [found[method]["calls"] for method in ("logprobs", "stated", "samples")] == [12, 12, 60]
    assert [found[method]["unscored"] for method in ("logprobs", "stated", "samples")] == [0, 0, 0]
    assert found["logprobs"]["completion_tokens_per_label"] == 2
    assert found["samples"]["completion_tokens_per_label"] == 10
    assert found["stated_to_logprobs"]["completion_tokens_per_label"] > 5
