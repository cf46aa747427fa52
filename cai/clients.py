"""Clients of a run's models: one for each model and endpoint in an event loop, shared by all shards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary, WeakValueDictionary

from rich.console import Console

from cai.config import ModelConfig, RunConfig
from cai.models import open_model
from cai.models.base import ChatModel, Completion, Request
from cai.report.progress import Board

Endpoints = dict[str, str]
board = Board(Console(stderr=True))
Loop = asyncio.AbstractEventLoop
_clients: WeakKeyDictionary[Loop, dict[str, _Client]] = WeakKeyDictionary()
_gates: WeakKeyDictionary[Loop, WeakValueDictionary[str, asyncio.Semaphore]] = WeakKeyDictionary()


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


def _paced(model: ModelConfig) -> bool:
    """True where one pacer bounds all calls, those that wait out a failure excepted: a live model at one address."""
    in_process = model.managed is not None and model.managed.in_process
    return model.mode == "live" and not model.endpoints and not in_process


@dataclass
class _Client:
    """An open client, and how many blocks use it."""

    model: ChatModel
    users: int = 0


@contextlib.asynccontextmanager
async def opened(config: RunConfig, name: str, endpoints: Endpoints) -> AsyncIterator[ChatModel]:
    """A client of the model `name`, shared by all who have it open in this event loop; the last one closes it.

    Calls in flight are bounded over all its clients.
    """
    model, endpoint = config.models[name], endpoints.get(name)
    loop = asyncio.get_running_loop()
    clients = _clients.setdefault(loop, {})
    key = f"{config.root} {name} {endpoint} {model.model_dump_json()}"
    if key not in clients:
        gates = _gates.setdefault(loop, WeakValueDictionary())
        gate = gates.setdefault(name, asyncio.Semaphore(model.max_concurrency))
        opened_model = open_model(name, model, endpoint=endpoint, folder=config.root, say=board.say)
        clients[key] = _Client(opened_model if _paced(model) else _Gated(opened_model, gate))
    client = clients[key]
    client.users += 1
    try:
        yield client.model
    finally:
        client.users -= 1
        if not client.users:
            del clients[key]
            await client.model.close()
