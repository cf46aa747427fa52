"""The tests are divided among processes by file, as tests/conftest.py says: a pair of versions of pytest did not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests (-n 0)")
def test_a_test_is_in_the_group_of_its_file(request: pytest.FixtureRequest) -> None:
    """Else each process starts an engine and runs the demo, and nothing says so."""
    assert request.node.nodeid.endswith(f"@tests/{Path(__file__).name}")
