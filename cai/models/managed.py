"""A vLLM server that lives exactly as long as the code that uses it.

The server runs under `supervise.py` in a process group of its own, tied to this process by a pipe: when
the block ends, or this process dies in whatever way, the group is ended. Its output goes to a log file;
when it does not come up, or dies, the error carries the line of the log that says why.

It listens on a loopback port under a random key that exists only in this process and in the server's
environment: `open_model` finds it by the endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from cai.config import ManagedConfig
from cai.errors import ConfigError, ProviderError, ServerError
from cai.models.engine import IN_USE, died, engine_environment, engine_flags, too_slow
from cai.models.failures import AttemptFailed, connection_failure
from cai.models.supervise import GRACE_S
from cai.models.vllm import VllmModel

SERVER = "vllm.entrypoints.openai.api_server"  # the `vllm` command fails with its CPU package
SUPERVISOR = Path(__file__).with_name("supervise.py")
POLL_S = 0.25
NOTICED_S = 3.0
# Below those that systems hand out: one of them would be given to somebody else while the engine loads.
PORTS = range(20_000, 32_768)
TRIES = 20  # of a port that is free
# vLLM's own check leaves all but the paths of its APIs open
GUARD = ["--middleware", "cai.engine_guard.Guard"]
RUN_KEY = "CAI_MANAGED_KEY"  # holds the key where other processes of the run ask the servers as well
_keys: dict[str, str] = {}
_processes: dict[str, subprocess.Popen[bytes]] = {}


def managed_key(endpoint: str) -> str | None:
    """The key of a managed server by its endpoint: of one that this process started, or its parent's."""
    return _keys.get(endpoint) or os.environ.get(RUN_KEY)


class ManagedModel(VllmModel):
    """A chat model on a managed server: once the server is gone, calls fail at once instead of being tried again."""

    def lost(self, error: aiohttp.ClientError) -> AttemptFailed | ProviderError:
        """What a broken connection means."""
        server = _processes.get(self.endpoint)
        if server is None or server.poll() is None:
            return connection_failure(error)
        return ProviderError("unreachable", f"{self.endpoint}: its vLLM server is gone")


@dataclass(frozen=True)
class _Server:
    """A started server; `log_start`: where its part of the log begins."""

    process: subprocess.Popen[bytes]
    model: str
    log_path: Path
    log_start: int

    def died(self, when: str) -> ServerError:
        """The error for a server that is not there any more, with its own last words."""
        return died(self.model, "server", when, self.log_path, self.log_start)


@contextlib.asynccontextmanager
async def managed_server(
    model: str, config: ManagedConfig, log_path: Path, adapters: Sequence[str] = ()
) -> AsyncIterator[str]:
    """Serve `model` (a folder of weights, or a name on the hub) with vLLM; yields the endpoint's base URL.

    `adapters`: folders of LoRA adapters, each served under its own path as the name. Raises ConfigError for a
    port in use or vLLM missing, ServerError when the server does not come up in `start_timeout_s`, and
    EngineDied where it is gone by the time that the block fails.
    """
    host, port = _address(config)
    reached = "127.0.0.1" if host == "0.0.0.0" else host
    endpoint = f"http://{reached}:{port}/v1"
    key = os.environ.get(RUN_KEY) or secrets.token_urlsafe(24)
    flags = engine_flags(model, config, adapters, {"host": host, "port": port})
    env = {**os.environ, **engine_environment(model, config), "VLLM_API_KEY": key}
    server = _start([sys.executable, "-m", SERVER, *flags, *GUARD], env, model, log_path)
    try:
        await _healthy(server, f"http://{reached}:{port}/health", key, config.start_timeout_s)
        _keys[endpoint], _processes[endpoint] = key, server.process
        yield endpoint
    except ProviderError as error:
        if await _is_gone(server.process):
            raise server.died(IN_USE) from error
        raise
    finally:
        _keys.pop(endpoint, None)
        _processes.pop(endpoint, None)
        await _stop(server.process)


def _address(config: ManagedConfig) -> tuple[str, int]:
    """Host and port to listen on: those of the config, else a free port."""
    host, wanted = str(config.args.get("host", "127.0.0.1")), int(config.args.get("port", 0))
    for port in (wanted,) if wanted else (PORTS[secrets.randbelow(len(PORTS))] for _ in range(TRIES)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                problem = error.strerror
            else:
                return host, port
    raise ConfigError(
        f"managed.args: port {port} of {host} cannot be used ({problem}); "
        "choose another one, or leave port out to get a free one"
    )


def _start(command: list[str], env: dict[str, str], model: str, log_path: Path) -> _Server:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", str(SUPERVISOR), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    return _Server(process, model, log_path, start)


async def _healthy(server: _Server, url: str, key: str, timeout_s: float) -> None:
    """Wait until the server answers; notices its death within a fraction of a second."""
    deadline = time.monotonic() + timeout_s
    headers, timeout = {"Authorization": f"Bearer {key}"}, aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        while server.process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            if time.monotonic() > deadline:
                raise too_slow(server.model, "server", timeout_s, server.log_path)
            await asyncio.sleep(POLL_S)
    raise server.died("before it was ready")


async def _is_gone(process: subprocess.Popen[bytes]) -> bool:
    """Whether the server is gone, which its supervisor needs a moment to notice."""
    deadline = time.monotonic() + NOTICED_S
    while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing to wait on
        await asyncio.sleep(0.05)
    return process.poll() is not None


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's process group: the closed pipe asks its supervisor, and what is late is killed."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        deadline = time.monotonic() + GRACE_S + 3
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.05)
    finally:  # late, or cancelled again while waiting; or the supervisor was killed, and others of the group live
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
