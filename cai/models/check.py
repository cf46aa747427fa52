"""What can be known before the first paid call: the key, the sampling, whether the server has the model."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from cai.config import ModelConfig, RunConfig
from cai.errors import ConfigError, ProviderError
from cai.models.base import ChatModel
from cai.models.cost import SNAPSHOT

Say = Callable[[str], None]
KEY_ENV = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
NAMES_SHOWN = 8


def silent(line: str) -> None:
    """Say nothing."""


class Answering:
    """Says it where another model answers than the one that was asked: once for each, and of few.

    A dated snapshot of the asked one is the same model. What answered stands with every reply in the journal.
    """

    def __init__(self, model: str, say: Say) -> None:
        self._model, self._say = model, say
        self._heard = {model}

    def heard(self, name: str) -> None:
        """A reply of the model that calls itself `name`."""
        if name in self._heard or len(self._heard) > NAMES_SHOWN:
            return
        self._heard.add(name)
        if SNAPSHOT.sub("", name) != self._model:
            self._say(f"{self._model} was asked, but a model that calls itself {name[:200]!r} has answered")


def key_env(config: ModelConfig) -> str | None:
    """The environment variable that holds a model's key; None for a vLLM server without one."""
    return config.api_key_env or KEY_ENV.get(config.backend)


def missing_keys(config: RunConfig) -> list[str]:
    """The environment variables that hold keys of the config's models and are not set."""
    wanted = {env for model in config.models.values() if (env := key_env(model)) and model.managed is None}
    return sorted(env for env in wanted if not os.environ.get(env, "").strip())


def block_name(env: str) -> str:
    """The name of the Prefect Secret block that stands in for an environment variable."""
    return env.lower().strip("_").replace("_", "-")


def api_key(config: ModelConfig) -> str:
    """The API key from the environment; "" for a vLLM server without one. Raises ConfigError (missing)."""
    env = key_env(config)
    if env is None:
        return ""
    key = os.environ.get(env, "").strip()
    if not key:
        state = "is empty" if env in os.environ else "is not set"
        raise ConfigError(
            f"{config.model}: the environment variable {env} {state}; export the API key in it, "
            f"save it as Prefect's Secret block {block_name(env)}, or name another variable in api_key_env"
        )
    return key


def check_sampling(config: ModelConfig, temperature: float | None, top_p: float | None) -> None:
    """Refuse sampling that the backend would ignore or answer with an error. Raises ConfigError."""
    if config.backend != "anthropic":
        return
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if value is not None:
            raise ConfigError(
                f"{config.model}: anthropic takes no {name} (got {value:g}); set {name}: null in the "
                "sampling of every role that uses this model"
            )


def check_model(config: ModelConfig) -> None:
    """Check one model of the config without any call. Raises ConfigError."""
    api_key(config)


@runtime_checkable
class Probed(Protocol):
    """A model whose server can be asked, for free, whether it is there and serves the model."""

    async def probe(self) -> None:
        """Raises ProviderError: unreachable, auth, or not_found."""


async def probe(model: ChatModel) -> None:
    """Find an unreachable endpoint, a wrong key or model name by a free call. Raises ProviderError."""
    if isinstance(model, Probed):
        await model.probe()


def require_served(model: str, endpoint: str, served: Sequence[str]) -> None:
    """Raises ProviderError (not_found) where `model` is not among the names that the endpoint serves."""
    if model in served:
        return
    near = difflib.get_close_matches(model, served, n=NAMES_SHOWN, cutoff=0.3) or sorted(served)
    more = f" and {len(served) - NAMES_SHOWN} more" if len(served) > NAMES_SHOWN else ""
    names = ", ".join(near[:NAMES_SHOWN]) or "nothing"
    raise ProviderError("not_found", f"{model} at {endpoint}: no such model here; it serves {names}{more}")
