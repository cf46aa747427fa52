"""Whole runs as plain coroutines, for tests of what a run does and not of how Prefect carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai.conduct import dataset, judges
from cai.conduct import pipeline as whole
from cai.conduct.work import HERE
from cai.config import RunConfig
from cai.config_file import override_config
from cai.judge.curve import Method
from cai.judge.fit import METHOD


async def pipeline(config: RunConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A run to its end; returns its status."""
    return await whole.pipeline(override_config(config, list(overrides)), HERE)


async def judge(config: RunConfig, overrides: Sequence[str] = ()) -> dict[str, int]:
    """A run up to its dataset."""
    return await dataset.judge(override_config(config, list(overrides)), HERE)


async def qualify(config: RunConfig) -> dict[str, Any]:
    """The figures of a config's judges."""
    return await judges.qualify(config, HERE)


async def calibrate(config: RunConfig, out: str, method: Method = METHOD) -> dict[str, Any]:
    """A calibration of a config's judges."""
    return await judges.calibrate(config, Path(out), method, HERE)
