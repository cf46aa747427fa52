"""One vLLM server with the embedded model for all tests that ask it, and how commands are pointed to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from anyio.from_thread import start_blocking_portal

from cai.config import ModelConfig
from cai.config_file import load_config
from cai.embedded import MODEL_DIR
from cai.models.managed import RUN_KEY, managed_key, managed_server

DEMO = Path(__file__).parent.parent / "flows" / "configs" / "embedded.yaml"
CACHE_EMPTIED = {"VLLM_SERVER_DEV_MODE": "1"}  # gives the server a way to empty its prefix cache


class Engine(NamedTuple):
    """A running server. `url`: its endpoint. `key`: what it wants to be asked with. `model`: the demo's own."""

    url: str
    key: str
    model: ModelConfig

    @property
    def options(self) -> list[str]:
        """What makes a command ask this server instead of starting the demo's, and train nothing."""
        changes = {"managed": "null", "endpoint": self.url, "api_key_env": RUN_KEY, "model": self.model.model}
        settings = [f"models.tiny.{name}={value}" for name, value in changes.items()]
        settings += ["sft=null", "dpo=null", "evaluate=null"]
        return [part for setting in settings for part in ("--set", setting)]

    @property
    def environment(self) -> dict[str, str]:
        """The key, where a command's process looks for it."""
        return {RUN_KEY: self.key}


@contextmanager
def shared_engine(log: Path) -> Iterator[Engine]:
    """Start the demo's server for the length of the block, in an event loop of its own."""
    model = load_config(DEMO).models["tiny"].model_copy(update={"model": str(MODEL_DIR)})
    assert model.managed is not None
    managed = model.managed.model_copy(update={"env": {**model.managed.env, **CACHE_EMPTIED}})
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(managed_server(model.model, managed, log)) as url,
    ):
        key = managed_key(url)
        assert key is not None
        yield Engine(url, key, model)
