"""Evaluate: base, SFT and DPO answer the same held-out prompts with the same seeds, and every reply is graded."""

from __future__ import annotations

from typing import Any

from prefect import flow

from cai.conduct import models
from cai.config import RunConfig
from flows.secrets import prepared
from flows.tasks import tasks_of


@flow(name="cai-evaluate")
async def evaluate(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Evaluate the models of a run that has been trained."""
    config = await prepared(config, overrides)
    with tasks_of(config) as work:
        return await models.evaluate(config, work)
