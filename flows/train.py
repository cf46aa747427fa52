"""Train: SFT on the demonstrations, then DPO or its kin on the pairs, each in its own process through accelerate."""

from __future__ import annotations

from typing import Any

from prefect import flow

from cai.conduct import models
from cai.config import RunConfig
from flows.secrets import prepared
from flows.tasks import PREFECT


@flow(name="cai-train")
async def train(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Everything that the config trains, on the dataset that a run has exported."""
    return await models.train(await prepared(config, overrides), PREFECT)
