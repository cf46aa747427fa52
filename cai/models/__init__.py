"""Models behind backends: `open_model` is the only way from a config to a `ChatModel`.

A backend's module, and with it the vendor's SDK, is imported when a model of it is opened, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cai.config import ModelConfig
from cai.errors import ConfigError
from cai.models.base import ChatModel
from cai.models.check import Say, api_key, check_model, check_sampling, probe, silent

__all__ = ["check_model", "check_sampling", "open_model", "probe"]


def open_model(
    name: str,
    config: ModelConfig,
    *,
    endpoint: str | None = None,
    folder: Path | None = None,
    say: Say = silent,
) -> ChatModel:
    """The model `name` of a run config, ready for calls; close it in the event loop that used it.

    `endpoint`: where a managed server listens; goes before the config's. `folder`: of the run, for mode batch. `say`:
    takes lines about what is waited for, and of what else is worth knowing. Raises ConfigError (missing key).
    """
    try:
        if config.mode == "batch":
            from cai.models.batch import open_batch

            return open_batch(name, config, endpoint or config.endpoint, folder, say)
        return BACKENDS[config.backend](config, endpoint or config.endpoint, say)
    except ConfigError as error:
        raise ConfigError(f"models.{name}: {error}") from error


def _vllm(config: ModelConfig, endpoint: str | None, say: Say) -> ChatModel:
    from cai.models.in_process import IN_PROCESS, InProcessModel
    from cai.models.managed import ManagedModel, managed_key
    from cai.models.vllm import VllmModel

    if endpoint is None and config.endpoints:
        from cai.models.replicas import ReplicatedModel

        return ReplicatedModel(config, config.endpoints, api_key(config), say)
    if endpoint is None:
        raise ConfigError(f"{config.model}: start its managed server first, and pass the endpoint")
    if endpoint.startswith(IN_PROCESS):
        return InProcessModel(config, endpoint, say)
    if config.managed is not None:
        return ManagedModel(config, endpoint, managed_key(endpoint) or "", say)
    return VllmModel(config, endpoint, api_key(config), say)


def _openai(config: ModelConfig, endpoint: str | None, say: Say) -> ChatModel:
    from cai.models.openai import OpenAIModel

    return OpenAIModel(config, endpoint, say)


def _anthropic(config: ModelConfig, endpoint: str | None, say: Say) -> ChatModel:
    from cai.models.anthropic import AnthropicModel

    return AnthropicModel(config, endpoint, say)


BACKENDS: dict[str, Callable[[ModelConfig, str | None, Say], ChatModel]] = {
    "vllm": _vllm,
    "openai": _openai,
    "anthropic": _anthropic,
}
