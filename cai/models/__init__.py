"""Models behind backends: `open_model` is the only way from a config to a `ChatModel`.

A backend's module, and with it the vendor's SDK, is imported when a model of it is opened, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cai.config import ModelConfig
from cai.errors import ConfigError
from cai.models.base import ChatModel
from cai.models.check import api_key, check_model, check_sampling, probe

__all__ = ["check_model", "check_sampling", "open_model", "probe"]


def open_model(
    name: str,
    config: ModelConfig,
    *,
    endpoint: str | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ChatModel:
    """The model `name` of a run config, ready for calls; close it in the event loop that used it.

    `endpoint`: where a managed server listens; goes before the config's. `folder`: of the run, and `say`: takes lines
    about what is waited for; both for mode batch. Raises ConfigError (missing key).
    """
    try:
        if config.mode == "batch":
            from cai.models.batch import open_batch

            return open_batch(name, config, endpoint or config.endpoint, folder, say)
        return BACKENDS[config.backend](config, endpoint or config.endpoint)
    except ConfigError as error:
        raise ConfigError(f"models.{name}: {error}") from error


def _vllm(config: ModelConfig, endpoint: str | None) -> ChatModel:
    from cai.models.in_process import IN_PROCESS, InProcessModel
    from cai.models.managed import ManagedModel, managed_key
    from cai.models.vllm import VllmModel

    if endpoint is None and config.endpoints:
        from cai.models.replicas import ReplicatedModel

        return ReplicatedModel(config, config.endpoints, api_key(config))
    if endpoint is None:
        raise ConfigError(f"{config.model}: start its managed server first, and pass the endpoint")
    if endpoint.startswith(IN_PROCESS):
        return InProcessModel(config, endpoint)
    if config.managed is not None:
        return ManagedModel(config, endpoint, managed_key(endpoint) or "")
    return VllmModel(config, endpoint, api_key(config))


def _openai(config: ModelConfig, endpoint: str | None) -> ChatModel:
    from cai.models.openai import OpenAIModel

    return OpenAIModel(config, endpoint)


def _anthropic(config: ModelConfig, endpoint: str | None) -> ChatModel:
    from cai.models.anthropic import AnthropicModel

    return AnthropicModel(config, endpoint)


BACKENDS: dict[str, Callable[[ModelConfig, str | None], ChatModel]] = {
    "vllm": _vllm,
    "openai": _openai,
    "anthropic": _anthropic,
}
