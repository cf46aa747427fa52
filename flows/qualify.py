"""Qualify and calibrate: the judges of a config answer labelled pairs; figures decide, curves are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from cai.conduct import judges
from cai.config import RunConfig
from cai.judge.curve import Method
from cai.judge.fit import METHOD
from flows.secrets import prepared
from flows.tasks import PREFECT


@flow(name="cai-qualify")
async def qualify(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """May the judge of this config label? Figures and decision on labelled pairs."""
    return await judges.qualify(await prepared(config, overrides), PREFECT)


@flow(name="cai-calibrate")
async def calibrate(
    config: RunConfig, out: str, method: Method = METHOD, overrides: list[str] | None = None
) -> dict[str, Any]:
    """A calibration of this config's judge, written to `out`, with out-of-fold figures."""
    return await judges.calibrate(await prepared(config, overrides), Path(out), method, PREFECT)
