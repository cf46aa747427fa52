"""What this machine and the accounts lack for a run: told before a run finds out. Nothing is paid, started or written.

Looks are those of the run itself where it has them: inputs and endpoints as `cai.preflight` checks them, keys as the
clients read them, versions as `pyproject.toml` states them.
"""

from __future__ import annotations

import asyncio

from cai.config import RunConfig
from cai.doctor.finding import Finding
from cai.doctor.machine import disk, engine, gpus, packages, python, weights
from cai.doctor.services import endpoints, inputs, keys, prefect

__all__ = ["Finding", "examine"]


def examine(config: RunConfig | None) -> list[Finding]:
    """Everything that is looked at, in order; without a config, what any run could need."""
    found = [*python(), *packages(config), *engine(config), *gpus(config), *keys(config)]
    if config is not None:
        lacks_key = any(finding.area == "key" and finding.state == "missing" for finding in found)
        found += inputs(config, lacks_key)
        found += weights(config)
        found += asyncio.run(endpoints(config))
    return [*found, *disk(config), *prefect()]
