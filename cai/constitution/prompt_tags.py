"""Which tags the prompts of a run have, so that a constitution can be checked against them before the run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cai.config import SourceConfig
from cai.rows import Prompt
from cai.sources import read_prompts


def prompt_tags(sources: Sequence[SourceConfig], wanted: Collection[str] = ()) -> set[str]:
    """Tags of all prompts that a run would use, from the sources and from their rows.

    Reading ends early once all `wanted` are met. Raises ConfigError as `read_prompts` does.
    """
    tags: set[str] = set()
    for row in read_prompts(sources):
        if isinstance(row, Prompt) and not tags.issuperset(row.tags):
            tags.update(row.tags)
            if wanted and tags.issuperset(wanted):
                break
    return tags
