"""The whole method, from prompts to evaluated models: `cai.conduct.pipeline` with a Prefect task a unit of work."""

from __future__ import annotations

from typing import Any

from prefect import flow

from cai.conduct import pipeline as conduct
from cai.config import RunConfig
from flows.secrets import prepared
from flows.tasks import tasks_of


@flow(name="cai-pipeline")
async def pipeline(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """Run a config from prompts to evaluated models; whatever is done already is not done again.

    `overrides`: `dotted.key=value` changes to the config, as with `cai run --set`.
    """
    config = await prepared(config, overrides)
    with tasks_of(config) as work:
        return await conduct.pipeline(config, work)
