"""A vLLM engine that this process drives itself: the managed server without the HTTP between.

What answers is what answers behind HTTP: vLLM's own serving layer, built from the same flags as its API server
builds it. So chat template, constrained choices, defaults and replies are the server's, and the journal cannot
tell which of the two it was. The engine's client lives in a thread with an event loop of its own, because it
blocks while the engine comes up; calls are handed over to it.

The engine itself is a process of vLLM's, as it is behind HTTP. It is ended with the block, whatever happens;
`keeper.py` ends it when this process is killed. While it comes up, all that this process writes to its
standard output and error goes to the engine's log, because the engine inherits them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import multiprocessing
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from cai.config import ManagedConfig, ModelConfig
from cai.errors import ConfigError, ProviderError, ServerError
from cai.models.check import Say, silent
from cai.models.engine import IN_USE, died, engine_environment, engine_flags, last_words, too_slow
from cai.models.failures import AttemptFailed, http_failure
from cai.models.hosting import environment, kept, log_to, output_to
from cai.models.vllm import VllmModel

IN_PROCESS = "in-process:"
ENGINE_NAMES = ("EngineCore", "VLLM")  # how vLLM names the processes that it starts
# imported before there is an engine: some keep the traceback of a failed import, and with it all frames above
MODULES = (
    "vllm.v1.engine.async_llm",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.launchers.api_server.entry",
)
POLL_S = 0.1
GRACE_S = 10.0
_numbers = itertools.count(1)
_engines: dict[str, Engine] = {}


class InProcessModel(VllmModel):
    """A chat model on an engine of this process."""

    def __init__(self, config: ModelConfig, endpoint: str, say: Say = silent) -> None:
        if endpoint not in _engines:
            raise ConfigError(
                f"{config.model}: its engine runs in another process; an engine with in_process: true answers "
                "only the process that started it"
            )
        super().__init__(config, endpoint, "", say)
        self._engine = _engines[endpoint]

    async def send(self, method: str, path: str, payload: bytes | None = None) -> bytes:
        """One exchange with the engine. Raises AttemptFailed, or ProviderError where the engine is dead."""
        return await self._engine.answer(path, payload or b"")


@contextlib.asynccontextmanager
async def in_process_engine(
    model: str, config: ManagedConfig, log_path: Path, adapters: Sequence[str] = ()
) -> AsyncIterator[str]:
    """Start an engine for `model`; yields what stands for its endpoint, in this process only.

    Raises ConfigError, ServerError where the engine does not come up in `start_timeout_s`, and EngineDied where it
    is gone by the time that the block fails.
    """
    engine = Engine(model, engine_flags(model, config, adapters), log_path)
    endpoint = f"{IN_PROCESS}{next(_numbers)}"
    env = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", **engine_environment(model, config)}
    with environment(env), kept(engine.log_path) as keeper:
        try:
            await engine.start(keeper, config.start_timeout_s)
            _engines[endpoint] = engine
            yield endpoint
        except ProviderError as error:
            if engine.dead:
                raise engine.died(IN_USE) from error
            raise
        finally:
            _engines.pop(endpoint, None)
            await engine.stop()


def engine_metrics(endpoint: str) -> str | None:
    """The engine's figures in Prometheus's text format; None where it is no engine of this process."""
    engine = _engines.get(endpoint)
    return None if engine is None or engine.dead else engine.metrics()


class Engine:
    """An engine in a thread of its own. `dead`: it was started, and cannot answer any more."""

    def __init__(self, model: str, flags: list[str], log_path: Path) -> None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path = log_path
        self.dead = False
        self._model, self._flags = model, flags
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        self._ready: Future[None] = Future()
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._thread = threading.Thread(target=self._live, name="vllm engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._app: Any = None

    def died(self, when: str) -> ServerError:
        """The error for an engine that is not there any more, with its own last words."""
        return died(self._model, "engine", when, self.log_path, self._log_start)

    async def start(self, keeper: subprocess.Popen[bytes], timeout_s: float) -> None:
        """Bring the engine up. Raises ServerError."""
        before = set(multiprocessing.active_children())
        deadline = time.monotonic() + timeout_s
        self._thread.start()
        while True:
            done = self._ready.done()
            for process in set(multiprocessing.active_children()) - before - set(self._processes):
                if process.name.startswith(ENGINE_NAMES):
                    self._processes.append(process)
                    assert keeper.stdin is not None
                    keeper.stdin.write(f"{process.pid}\n".encode())
            if done:
                return self._ready.result()
            if time.monotonic() > deadline:
                raise too_slow(self._model, "engine", timeout_s, self.log_path)
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """End the engine and its processes: asked first, killed when they are late or still coming up."""
        if self._app is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        else:
            self._kill()
        try:
            await asyncio.to_thread(self._thread.join, GRACE_S)
        finally:  # late, or cancelled again while waiting
            self._kill()
            self._let_go()

    def _let_go(self) -> None:
        """Drop vLLM's client now: it would be ended once more, with a message, when the interpreter is half gone."""
        if self._app is not None:
            self._app._state.clear()
            self._app = None
            gc.collect()

    def _kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ValueError):  # closed by vLLM
                if process.is_alive():
                    process.kill()
                process.join(1)

    async def answer(self, path: str, payload: bytes) -> bytes:
        """What the API server would answer; callable from any event loop."""
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._answer(path, payload), self._loop)
        )

    def metrics(self) -> str:
        """The engine's figures in Prometheus's text format."""
        from prometheus_client import generate_latest
        from vllm.v1.metrics.prometheus import get_prometheus_registry

        return generate_latest(get_prometheus_registry()).decode()

    def _live(self) -> None:
        """The engine's thread."""
        import uvloop

        try:
            with output_to(self.log_path):
                for module in MODULES:
                    importlib.import_module(module)
            uvloop.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                self.dead = True
            else:
                self._ready.set_exception(error if isinstance(error, ServerError) else self._no_start(error))

    def _no_start(self, error: BaseException) -> ServerError:
        return died(self._model, "engine", "before it was ready", self.log_path, self._log_start)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            with output_to(self.log_path):
                try:
                    self._app = await _app(self._flags, stack)
                finally:
                    log_to(self.log_path)
            self._ready.set_result(None)
            await self._stopping.wait()

    async def _answer(self, path: str, payload: bytes) -> bytes:
        from pydantic import ValidationError
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            reply = await _reply(self._app, path, payload)
        except EngineDeadError:
            self.dead = True
        except ValidationError as error:
            raise AttemptFailed("bad_request", f"HTTP 400: {error}") from error
        except Exception as error:
            reply = create_error_response(error)
        if self.dead:  # not chained: the error's frames would keep the engine's client for good
            words = last_words(self.log_path, self._log_start)
            raise ProviderError("unreachable", f"{self._model}: the vLLM engine died: {words}")
        raw: bytes = reply.model_dump_json().encode()
        if isinstance(reply, ErrorResponse):
            raise http_failure(reply.error.code, {}, raw.decode())
        return raw


async def _app(flags: list[str], stack: contextlib.AsyncExitStack) -> Any:
    """The state of vLLM's API server for these flags, with its engine started: what its handlers are called on."""
    from starlette.datastructures import State
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser(prog="vllm")).parse_args(flags)
    configure_logging_from_args(args)
    validate_parsed_serve_args(args)
    app = State()
    app.engine_client = await stack.enter_async_context(build_async_engine_client(args))
    await init_app_state(app.engine_client, app, args, await app.engine_client.get_supported_tasks())
    return app


async def _reply(app: Any, path: str, payload: bytes) -> Any:
    """What the API server's handler of `path` replies: a model of vLLM's protocol, an error included."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.serve.tokenize.protocol import TokenizeCompletionRequest

    match path:
        case "/v1/chat/completions":
            request = ChatCompletionRequest.model_validate_json(payload)
            return await app.openai_serving_chat.create_chat_completion(request)
        case "/tokenize":
            asked = TokenizeCompletionRequest.model_validate_json(payload)
            return await app.serving_tokenization.create_tokenize(asked, None)
        case _:
            return await app.openai_serving_models.show_available_models()
