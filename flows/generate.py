"""Generate: every prompt is answered n times by the policy."""

from __future__ import annotations

from typing import Any

from prefect import flow

from cai.conduct import dataset
from cai.config import RunConfig
from flows.secrets import prepared
from flows.tasks import tasks_of


@flow(name="cai-generate")
async def generate(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Prompts and replies of a run, and nothing more."""
    config = await prepared(config, overrides)
    with tasks_of(config) as work:
        return await dataset.generate(config, work)
