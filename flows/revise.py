"""Revise: the first reply of each prompt is critiqued and revised, a drawn principle a round."""

from __future__ import annotations

from typing import Any

from prefect import flow

from cai.conduct import dataset
from cai.config import RunConfig
from flows.secrets import prepared
from flows.tasks import tasks_of


@flow(name="cai-revise")
async def revise(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """A run up to its revisions; replies that are there already are not asked again."""
    config = await prepared(config, overrides)
    with tasks_of(config) as work:
        return await dataset.revise(config, work)
