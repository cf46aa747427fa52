"""Models served for a piece of work: managed servers started and stopped, clients that share one limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rich.console import Console

from cai.config import RunConfig
from cai.models import open_model
from cai.models.base import ChatModel, Completion, Request
from cai.models.managed import managed_server
from cai.report.progress import Board

Endpoints = dict[str, str]
board = Board(Console(stderr=True))
_gates: dict[tuple[str, int], asyncio.Semaphore] = {}


class _Gated:
    """A model behind the process-wide limit of its config, so that shards share one bound on calls in flight."""

    def __init__(self, model: ChatModel, gate: asyncio.Semaphore) -> None:
        self._model, self._gate = model, gate

    @property
    def identity(self) -> str:
        return self._model.identity

    async def complete(self, request: Request) -> Completion:
        async with self._gate:
            return await self._model.complete(request)

    async def close(self) -> None:
        await self._model.close()


@contextlib.asynccontextmanager
async def opened(config: RunConfig, name: str, endpoints: Endpoints) -> AsyncIterator[ChatModel]:
    """A client of the model `name`, closed at the end; calls in flight are bounded over all its clients."""
    limit = config.models[name].max_concurrency
    gate = _gates.setdefault((name, id(asyncio.get_running_loop())), asyncio.Semaphore(limit))
    model = open_model(name, config.models[name], endpoint=endpoints.get(name))
    try:
        yield _Gated(model, gate)
    finally:
        await model.close()


@contextlib.asynccontextmanager
async def serving(config: RunConfig, names: Sequence[str]) -> AsyncIterator[Endpoints]:
    """Start the managed servers among `names`; yields their endpoints, stops them at the end whatever happens."""
    async with contextlib.AsyncExitStack() as stack:
        endpoints: Endpoints = {}
        for name in dict.fromkeys(names):
            model = config.models[name]
            if model.managed is not None:
                log = config.root / "logs" / f"vllm-{name}.log"
                board.say(f"serving {name} ({model.model}) with vLLM; log {log}")
                endpoints[name] = await stack.enter_async_context(
                    managed_server(model.model, model.managed, log)
                )
        yield endpoints


def with_policy(config: RunConfig, name: str, weights: Path) -> RunConfig:
    """The config with a trained checkpoint as its policy, served like the model that it was trained from."""
    served = config.models[config.policy.model].model_copy(update={"model": str(weights)})
    policy = config.policy.model_copy(update={"model": name})
    return config.model_copy(update={"models": {**config.models, name: served}, "policy": policy})
