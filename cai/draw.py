"""Prompts of a run with a target: published slice by slice in the order of the sources, as many as are drawn."""

from __future__ import annotations

from itertools import islice

from cai.config import RunConfig
from cai.pipeline import digest
from cai.publish import prompt_rows, publish_rows
from cai.rows import Prompt
from cai.shard import ShardReport
from cai.store import encode
from cai.target import slices


def write_slices(config: RunConfig) -> list[ShardReport]:
    """Publish the first `config.shards` slices, each as a shard; fewer where the sources end before.

    A slice is read whole, and is left as it is where it says the same.
    """
    return [
        publish_rows(config.root, "prompts", number, digest([encode(row).decode() for row in rows]), rows)
        for number, rows in enumerate(islice(slices(prompt_rows(config)), config.shards))
    ]


def count_prompts(config: RunConfig) -> int:
    """How many prompts the sources have."""
    return sum(isinstance(row, Prompt) for row in prompt_rows(config))
