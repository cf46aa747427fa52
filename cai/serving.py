"""Models served for a piece of work: engines started and stopped, each at once or with its first call."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from cai.clients import Endpoints, board, opened
from cai.config import RunConfig
from cai.errors import EngineDied, ProviderError, ServerError
from cai.models import open_model
from cai.models.base import ChatModel, Completion, Request
from cai.models.in_process import in_process_engine
from cai.models.managed import managed_server
from cai.models.metrics import EngineFigures, add_engine, read_metrics
from cai.preflight import NOWHERE
from cai.runfolder.revisions import pinned_engine, trusts_code

__all__ = [
    "Endpoints",
    "Models",
    "board",
    "engine_of",
    "on_demand",
    "opened",
    "outliving_engines",
    "serving",
    "with_policy",
]

T = TypeVar("T")
RESTARTS = (
    3  # of an engine that does not live STEADY_S: a request that always kills it must not go on for ever
)
STEADY_S = 900.0


def engine_of(config: RunConfig, name: str) -> str | None:
    """What the engine of a managed model is started with; models for which it is the same share one engine.

    None where none is started for the model.
    """
    model = config.models[name]
    return None if model.managed is None else f"{model.model} {model.managed.model_dump_json()}"


@contextlib.asynccontextmanager
async def serving(config: RunConfig, names: Sequence[str]) -> AsyncIterator[Endpoints]:
    """Start the engines of the managed models among `names`; yields their endpoints, stops them whatever happens.

    A base model and adapters of it are served by one engine, each by its name.
    """
    engines: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        if engine := engine_of(config, name):
            engines.setdefault(engine, []).append(name)
    async with contextlib.AsyncExitStack() as stack:
        endpoints: Endpoints = {}
        for served in engines.values():
            endpoint = await stack.enter_async_context(_engine(config, served))
            endpoints |= dict.fromkeys(served, endpoint)
        yield endpoints


@contextlib.asynccontextmanager
async def _engine(config: RunConfig, names: Sequence[str]) -> AsyncIterator[str]:
    """The engine that serves these models, whose figures are kept when it ends."""
    model = config.models[names[0]]
    assert model.managed is not None
    in_process = model.managed.in_process
    adapters = list(dict.fromkeys(one for name in names if (one := config.models[name].adapter)))
    log = config.root / "logs" / f"vllm-{names[0]}.log"
    board.say(f"serving {', '.join(names)} ({model.model}) with vLLM; log {log}")
    begun = time.monotonic()
    start = in_process_engine if in_process else managed_server
    managed = pinned_engine(config.root, model)
    if trusts_code(model):
        board.say(f"{model.model}: trust-remote-code runs whatever code comes with it, as this user")
    async with start(model.model, managed, log, adapters) as endpoint:
        start_s = round(time.monotonic() - begun, 1)
        try:
            yield endpoint
        finally:
            if (found := await read_metrics(endpoint)) is not None:
                way = "in process" if in_process else "server"
                figures = {"names": names, "way": way, "start_s": start_s, **found}
                add_engine(config.root, EngineFigures.model_validate(figures))


async def outliving_engines(work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, begun again where an engine that it serves dies in use; its journal keeps every reply.

    Raises ServerError for an engine that has died soon after each of RESTARTS starts.
    """
    restarts = 0
    while True:
        begun = time.monotonic()
        try:
            return await work()
        except EngineDied as error:
            if time.monotonic() - begun > STEADY_S:
                restarts = 0
            if restarts == RESTARTS:
                raise ServerError(f"{error}; it was started {RESTARTS} times again") from error
            restarts += 1
            board.say(f"{error}; it is started again ({restarts} of {RESTARTS})")


class Models:
    """The models of a config by name, each opened when it is first needed; at most one engine runs."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._lock = asyncio.Lock()
        self._opening: dict[str, asyncio.Task[dict[str, ChatModel]]] = {}
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
        key = self._opened_as(name)
        task = self._opening.get(key)
        if task is None or (task.done() and key not in self._open):
            names = [other for other in self._config.models if self._opened_as(other) == key]
            task = self._opening[key] = asyncio.create_task(self._start(key, names))
        return (await asyncio.shield(task))[name]

    async def drop(self, name: str) -> None:
        """End a client that is of no use any more, so that the next call opens a new one."""
        await self._end(self._opened_as(name))

    async def close(self) -> None:
        """End everything, also what is being opened."""
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        for key in list(self._open):
            await self._end(key)

    def _opened_as(self, name: str) -> str:
        """Models of one engine are opened together."""
        return engine_of(self._config, name) or name

    async def _end(self, key: str) -> None:
        async with self._lock:
            if stack := self._open.pop(key, None):
                await stack.aclose()

    async def _start(self, key: str, names: Sequence[str]) -> dict[str, ChatModel]:
        config = self._config
        if engine_of(config, names[0]):
            engines = {engine for name in config.models if (engine := engine_of(config, name))}
            for other in engines.intersection(self._open):
                await self._end(other)
        clients: dict[str, ChatModel] = {}
        async with self._lock, contextlib.AsyncExitStack() as undo:
            endpoints = await undo.enter_async_context(serving(config, names))
            for name in names:
                clients[name] = open_model(
                    name, config.models[name], endpoint=endpoints.get(name), folder=config.root, say=board.say
                )
                undo.push_async_callback(clients[name].close)
            self._open[key] = undo.pop_all()
        return clients


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
    served = config.models[config.policy.model].model_copy(update={"model": str(weights), "adapter": None})
    policy = config.policy.model_copy(update={"model": name})
    return config.model_copy(update={"models": {**config.models, name: served}, "policy": policy})
