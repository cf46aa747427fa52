"""Mode `batch`: a hosted model through its provider's batch API, at half the price, each batch within a day.

Behind the same interface as any model: requests are collected into batches, submitted once whatever happens (see
`ledger`), polled, and answered by their journal keys. Requests and replies are the live model's to the byte and the
identity is the same, so a run can change its mode and keep its journal. A row's calls depend on each other: a chain of
critiques and revisions takes as many batches one after the other as it has calls, and a reply that does not parse one
more. Limits per minute, `deadline_s` and `timeout_s` are of live calls, and count for nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cai.config import ModelConfig
from cai.models.base import ChatModel

if TYPE_CHECKING:
    from cai.models.batch.provider import Provider


def open_batch(
    name: str, config: ModelConfig, endpoint: str | None, folder: Path | None, say: Callable[[str], None]
) -> ChatModel:
    """The model `name` of a run, in batches that are noted below `folder`. Raises ConfigError (no key).

    `folder`: the run's; None for a model that is only looked at. `say`: takes lines about what is being waited for.
    """
    from cai.models.batch.collect import BatchModel
    from cai.models.check import api_key

    ledger = folder / "batches" / f"{name}.jsonl" if folder else None
    provider = _provider(config, endpoint)

    def say_printable(line: str) -> None:  # a line may quote the provider
        say("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line))

    limit, secret = config.max_concurrency, api_key(config)
    return BatchModel(name, provider, ledger, limit=limit, secret=secret, say=say_printable)


def _provider(config: ModelConfig, endpoint: str | None) -> Provider:
    if config.backend == "openai":
        from cai.models.batch.openai import OpenAIBatches

        return OpenAIBatches(config, endpoint)
    from cai.models.batch.anthropic import AnthropicBatches

    return AnthropicBatches(config, endpoint)
