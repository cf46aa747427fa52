"""Models served for a piece of work: managed servers started and stopped, clients that share one limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary, WeakValueDictionary

from rich.console import Console

from cai.config import RunConfig
from cai.errors import ProviderError
from cai.models import open_model
from cai.models.base import ChatModel, Completion, Request
from cai.models.managed import managed_server
from cai.preflight import NOWHERE
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
        # at a single live endpoint the model's pacer bounds the calls, and not those that wait out a failure
        paced = (
            model.mode == "live" and not model.endpoints and not (model.managed and model.managed.in_process)
        )
        clients[key] = _Client(opened_model if paced else _Gated(opened_model, gate))
    client = clients[key]
    client.users += 1
    try:
        yield client.model
    finally:
        client.users -= 1
        if not client.users:
            del clients[key]
            await client.model.close()


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


class Models:
    """The models of a config by name, each opened when it is first needed; at most one managed server runs."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._lock = asyncio.Lock()
        self._opening: dict[str, asyncio.Task[ChatModel]] = {}
        self._open: dict[str, contextlib.AsyncExitStack] = {}

    async def model(self, name: str) -> ChatModel:
        """A model that is opened, and its managed server started, by its first call."""
        closed = open_model(
            name, self._config.models[name], endpoint=self._config.models[name].endpoint or NOWHERE
        )
        identity = closed.identity
        await closed.close()
        return _OnDemand(name, identity, self)

    async def client(self, name: str) -> ChatModel:
        """The open client of a model; all who wait for it to open hear of the same failure."""
        task = self._opening.get(name)
        if task is None or (task.done() and name not in self._open):
            task = self._opening[name] = asyncio.create_task(self._start(name))
        return await asyncio.shield(task)

    async def drop(self, name: str) -> None:
        """End a client that is of no use any more, so that the next call opens a new one."""
        async with self._lock:
            if stack := self._open.pop(name, None):
                await stack.aclose()

    async def close(self) -> None:
        """End everything, also what is being opened."""
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        for name in list(self._open):
            await self.drop(name)

    async def _start(self, name: str) -> ChatModel:
        model = self._config.models[name]
        if model.managed is not None:
            for other in [one for one in self._open if self._config.models[one].managed is not None]:
                await self.drop(other)
        async with self._lock, contextlib.AsyncExitStack() as undo:
            endpoints = await undo.enter_async_context(serving(self._config, [name]))
            client = open_model(
                name, model, endpoint=endpoints.get(name), folder=self._config.root, say=board.say
            )
            undo.push_async_callback(client.close)
            self._open[name] = undo.pop_all()
        return client


class _OnDemand:
    """A model of which only the identity is known before its first call."""

    def __init__(self, name: str, identity: str, models: Models) -> None:
        self._name, self.identity, self._models = name, identity, models

    async def complete(self, request: Request) -> Completion:
        client = await self._models.client(self._name)
        try:
            return await client.complete(request)
        except ProviderError as error:
            if error.fatal:
                await self._models.drop(self._name)
            raise

    async def close(self) -> None:
        """Nothing: `Models` closes what it has opened."""


@contextlib.asynccontextmanager
async def on_demand(config: RunConfig) -> AsyncIterator[Models]:
    """The models of a config, of which only those are opened that are asked something; they stay open to the end.

    So what a journal answers starts no server.
    """
    models = Models(config)
    try:
        yield models
    finally:
        await models.close()


def with_policy(config: RunConfig, name: str, weights: Path) -> RunConfig:
    """The config with a trained checkpoint as its policy, served like the model that it was trained from."""
    served = config.models[config.policy.model].model_copy(update={"model": str(weights)})
    policy = config.policy.model_copy(update={"model": name})
    return config.model_copy(update={"models": {**config.models, name: served}, "policy": policy})
