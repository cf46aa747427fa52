"""Judge: pairs are labelled in both orders, and what clears the threshold becomes the dataset."""

from __future__ import annotations

from prefect import flow

from cai.conduct import dataset
from cai.config import RunConfig
from flows.secrets import prepared
from flows.tasks import tasks_of


@flow(name="cai-judge")
async def judge(config: RunConfig, overrides: list[str] | None = None) -> dict[str, int]:
    """A run up to its dataset, without training. The paper recipe judges SFT samples, so it needs the pipeline."""
    once = ["dpo.rounds=1", "dpo.replay=0", "dpo.self_play=false"] if config.dpo else []
    config = await prepared(config, [*once, *(overrides or []), "recipe=direct"])
    with tasks_of(config) as work:
        return await dataset.judge(config, work)
