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
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from cai.config import ManagedConfig
from cai.errors import ConfigError, ProviderError, ServerError
from cai.models.supervise import GRACE_S
from cai.models.weights import is_weights

SUPERVISOR = Path(__file__).with_name("supervise.py")
RESERVED = frozenset({"model", "served-model-name", "api-key"})
POLL_S = 0.25
LOG_TAIL = 65536
LINE_CHARS = 300
# a weak model fills constrained JSON with whitespace until the limit, and no field of a request stops it
STRUCTURED = '{"backend": "xgrammar", "disable_any_whitespace": true}'
TELLING = re.compile(r"(\w+(Error|Exception)|\berror|Killed|Out of memory)\b.*: ?\S")
HOLLOW = re.compile(r"See root cause above|Traceback|raise \w|During handling")
PREFIX = re.compile(r"^(\(\w+ pid=\d+\) )?((ERROR|WARNING|CRITICAL) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_keys: dict[str, str] = {}


def managed_key(endpoint: str) -> str | None:
    """The key of a server that this process started, by its endpoint."""
    return _keys.get(endpoint)


@dataclass(frozen=True)
class _Server:
    """A started server; `log_start`: where its part of the log begins."""

    process: subprocess.Popen[bytes]
    model: str
    log_path: Path
    log_start: int

    def died(self, when: str) -> ServerError:
        """The error for a server that is not there any more, with its own last words."""
        words = last_words(self.log_path, self.log_start)
        return ServerError(f"{self.model}: the vLLM server died {when}: {words} (log: {self.log_path})")


@contextlib.asynccontextmanager
async def managed_server(model: str, config: ManagedConfig, log_path: Path) -> AsyncIterator[str]:
    """Serve `model` (a folder of weights, or a name on the hub) with vLLM; yields the endpoint's base URL.

    Raises ConfigError for a port in use or vLLM missing, ServerError when the server does not come up in
    `start_timeout_s`, or has died by the time that the block fails.
    """
    host, port = _address(config)
    endpoint = f"http://{host}:{port}/v1"
    key = secrets.token_urlsafe(24)
    server = _start(_command(model, config, host, port), _environment(model, config, key), model, log_path)
    try:
        await _healthy(server, f"http://{host}:{port}/health", config.start_timeout_s)
        _keys[endpoint] = key
        yield endpoint
    except ProviderError as error:
        if server.process.poll() is not None:
            raise server.died("while it was in use") from error
        raise
    finally:
        _keys.pop(endpoint, None)
        await _stop(server.process)


def _address(config: ManagedConfig) -> tuple[str, int]:
    """Host and port to listen on: those of the config, else a free loopback port."""
    host, wanted = str(config.args.get("host", "127.0.0.1")), int(config.args.get("port", 0))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            raise ConfigError(
                f"managed.args: port {wanted} of {host} cannot be used ({error.strerror}); "
                "choose another one, or leave port out to get a free one"
            ) from error
        port: int = probe.getsockname()[1]
    return ("127.0.0.1" if host == "0.0.0.0" else host), port


def _command(model: str, config: ManagedConfig, host: str, port: int) -> list[str]:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("vLLM is not installed; install cai[vllm], or run cai/install.py without a GPU")
    if not is_weights(model) and (model.startswith(("/", ".", "~")) or Path(model).is_dir()):
        raise ConfigError(f"{model}: no folder with a model in it (no config.json)")
    args = {name.lstrip("-").replace("_", "-"): value for name, value in config.args.items()}
    if taken := RESERVED & args.keys():
        raise ConfigError(f"managed.args: {', '.join(sorted(taken))} is set by the run; leave it out")
    fixed: dict[str, str | int | float | bool] = {
        "model": model,
        "served-model-name": model,
        "host": host,
        "structured-outputs-config": STRUCTURED,
    }
    if not has_gpu():
        # vLLM rewinds the generator of a seeded request after a partial prefill; a CPU generator cannot
        fixed["enable-chunked-prefill"] = False
    args = {**fixed, **args, "port": port}
    flags: list[str] = []
    for name, value in args.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [f"--{name}", str(value)]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]


def _environment(model: str, config: ManagedConfig, key: str) -> dict[str, str]:
    """The server's environment: this process's, what a machine without a GPU needs, then the config's."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if not has_gpu():
        memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        defaults |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, min(8, int(memory_gb / 16)))),
        }
    if is_weights(model):
        defaults |= {"HF_HUB_OFFLINE": "1"}
    return {**os.environ, **defaults, **config.env, "VLLM_API_KEY": key}


def has_gpu() -> bool:
    """True where an NVIDIA or AMD device is visible; cheap, without torch."""
    devices = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
    return any(device.exists() for device in devices) or shutil.which("nvidia-smi") is not None


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


async def _healthy(server: _Server, url: str, timeout_s: float) -> None:
    """Wait until the server answers; notices its death within a fraction of a second."""
    deadline = time.monotonic() + timeout_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while server.process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{server.model}: the vLLM server was not ready after {timeout_s:g} s; raise "
                    f"start_timeout_s, or see what it waits for in {server.log_path}"
                )
            await asyncio.sleep(POLL_S)
    raise server.died("before it was ready")


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's process group: the closed pipe asks its supervisor, and what is late is killed."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        deadline = time.monotonic() + GRACE_S + 3
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.05)
    finally:  # late, or cancelled again while waiting
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_words(log_path: Path, start: int = 0) -> str:
    """The last line of a log, from byte `start`, that tells why a server ended; else just its last line."""
    with log_path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(start, size - LOG_TAIL))
        text = log.read().decode("utf-8", "replace")
    lines = [PREFIX.sub("", line).strip() for line in text.splitlines()]
    telling = [line for line in lines if TELLING.search(line) and not HOLLOW.search(line)]
    last = next(iter(reversed(telling or [line for line in lines if line])), "it wrote nothing")
    return last[:LINE_CHARS]
