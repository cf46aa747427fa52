"""The judging benchmark runs on real vLLM, and prints the ratios that claims about one-token judging are made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine import Engine

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_judging(engine: Engine) -> None:
    """On a few pairs: every verdict is readable, a one-token answer is one token, and JSON costs several times that."""
    command = [sys.executable, "benchmarks/judging.py", "--pairs", "6", "--endpoint", engine.url]
    environment = {**os.environ, **engine.environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [found[method]["calls"] for method in ("logprobs", "stated", "samples")] == [12, 12, 60]
    assert [found[method]["unscored"] for method in ("logprobs", "stated", "samples")] == [0, 0, 0]
    assert found["logprobs"]["completion_tokens_per_label"] == 2
    assert found["samples"]["completion_tokens_per_label"] == 10
    assert found["stated_to_logprobs"]["completion_tokens_per_label"] > 5
