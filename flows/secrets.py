"""Keys from Prefect: what the environment lacks is taken from Secret blocks, at the start of a flow.

A key lives in the environment of the processes that ask with it, and nowhere else: no parameter, result or log of
Prefect holds it. What is set already counts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from prefect.blocks.system import Secret

from cai.config import RunConfig
from cai.config_file import override_config
from cai.models.check import block_name, missing_keys


async def prepared(config: RunConfig, overrides: Sequence[str] | None) -> RunConfig:
    """The config with its overrides, and the keys of its models in the environment. Raises ConfigError."""
    config = override_config(config, overrides or [])
    await load_keys(config)
    return config


async def load_keys(config: RunConfig) -> None:
    """Put the keys that are missing into the environment, as far as there are blocks of their names."""
    for env in missing_keys(config):
        try:
            block: Secret[Any] = await Secret.aload(block_name(env), validate=False)
        except ValueError:  # no such block: the run says what it lacks
            continue
        value = block.get()
        if isinstance(value, str) and value.strip():
            os.environ[env] = value.strip()
