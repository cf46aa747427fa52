"""What all tests share."""

from __future__ import annotations

import os

import pytest

import flows  # noqa: F401 - sets what Prefect must find in the environment before it is imported

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the flows do."""
    return "asyncio"
