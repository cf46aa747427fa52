"""Managed servers: a stand-in for vLLM's server tests the managing, the real one tests that it serves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from cai.config import ManagedConfig, ModelConfig
from cai.embedded import MODEL_DIR
from cai.errors import ConfigError, ProviderError, ServerError
from cai.models import managed, open_model, probe
from cai.models.base import Request
from cai.models.engine import has_bf16, last_words
from cai.models.managed import managed_server
from cai.models.weights import weights_digest
from cai.rows import Message
from tests.engine import Engine

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
Args = dict[str, str | int | float | bool]
FAST_ON_CPU: Args = {
    "enforce-eager": True,
    "max-model-len": 2048,
    "max-num-seqs": 64,
    "kv-cache-memory-bytes": 256 * 2**20,
}
STAND_IN = """
import argparse, http.server, os, subprocess, sys, time
parser = argparse.ArgumentParser(prog="api_server.py")
names = ("model", "served-model-name", "host", "structured-outputs-config", "dtype", "middleware", "load-format")
for name in names:
    parser.add_argument("--" + name)
parser.add_argument("--port", type=int)
parser.add_argument("--block-size", type=int)
switches = ("chunked-prefill", "prefix-caching", "prompt-tokens-details")
for name in (*(f"enable-{switch}" for switch in switches), "disable-uvicorn-access-log"):
    parser.add_argument("--" + name, action=argparse.BooleanOptionalAction)
parser.add_argument("--mood", default="good")
args = parser.parse_args()
print("arguments", sys.argv[1:], "key", bool(os.environ["VLLM_API_KEY"]), flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # an engine process
if args.mood == "broken":
    raise RuntimeError("no room for the weights")
if args.mood == "slow":
    time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            print("ValueError: asked to die", flush=True)
            os._exit(3)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer((args.host, args.port), Handler).serve_forever()
"""
PARENT = """
import asyncio, sys
from pathlib import Path
from cai.config import ManagedConfig
from cai.models.managed import managed_server

async def main():
    config = ManagedConfig.model_validate_json(sys.argv[2])
    async with managed_server(sys.argv[1], config, Path(sys.argv[3])) as url:
        print(url, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop that is supported."""
    return "asyncio"


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., ManagedConfig]:
    """A config whose server is the stand-in, found before the real package."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (
        package,
        package.parent,
        package.parent.parent,
    ):  # else the real package would be found first
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(STAND_IN)
    env = {"PYTHONPATH": str(tmp_path / "site")}

    def config(args: Args | None = None, start_timeout_s: float = 20) -> ManagedConfig:
        return ManagedConfig(args=args or {}, env=env, start_timeout_s=start_timeout_s)

    return config


def session_processes(needle: str) -> list[int]:
    """Processes in the groups led by a supervisor whose command line holds `needle`."""
    leaders = {pid for pid in _pids() if "supervise.py" in (line := _cmdline(pid)) and needle in line}
    return [pid for pid in _pids() if _group(pid) in leaders]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return -1


def wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    """Poll; fails the test when it takes longer than `limit_s`."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run; a zombie that nobody has collected yet does not."""
    return [pid for pid in pids if _cmdline(pid)]


async def test_it_lives_as_long_as_its_block(stand_in: Callable[..., ManagedConfig], tmp_path: Path) -> None:
    """Started with the model's name and a key, ended with all its processes."""
    log = tmp_path / "logs" / "vllm.log"
    async with managed_server("toy-life", stand_in({"mood": "good"}), log) as url:
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/v1")
        assert managed.managed_key(url)
        pids = session_processes("toy-life")
        assert len(pids) >= 3
    assert not alive(pids)
    assert managed.managed_key(url) is None
    assert "'--served-model-name', 'toy-life'" in log.read_text()
    assert "key True" in log.read_text()


async def test_a_failing_block_ends_it_too(stand_in: Callable[..., ManagedConfig], tmp_path: Path) -> None:
    """Also when the block is cancelled."""
    pids: list[int] = []
    started = asyncio.Event()

    async def body() -> None:
        async with managed_server("toy-cancel", stand_in(), tmp_path / "log"):
            pids.extend(session_processes("toy-cancel"))
            started.set()
            await asyncio.sleep(600)

    task = asyncio.create_task(body())
    await asyncio.wait_for(started.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pids)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"mood": "broken"}, "RuntimeError: no room for the weights"),
        ({"frobnicate": True}, "error: unrecognized arguments: --frobnicate"),
    ],
)
async def test_death_at_the_start_is_noticed(
    args: Args, words: str, stand_in: Callable[..., ManagedConfig], tmp_path: Path
) -> None:
    """At once, with the server's own words and the place of its log."""
    start = time.monotonic()
    with pytest.raises(ServerError) as caught:
        async with managed_server("toy-broken", stand_in(args), tmp_path / "log"):
            pass
    assert words in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)
    assert time.monotonic() - start < 60  # it is given far longer to start
    wait_until(lambda: not session_processes("toy-broken"), 5)


async def test_death_in_use_explains_the_failed_call(
    stand_in: Callable[..., ManagedConfig], tmp_path: Path
) -> None:
    """A call that finds nobody becomes the error of the server, not of the network."""
    with pytest.raises(ServerError, match="died while it was in use: ValueError: asked to die"):
        async with managed_server("toy-dies", stand_in(), tmp_path / "log") as url:
            address = url.removesuffix("/v1") + "/die"
            with pytest.raises(OSError):
                await asyncio.to_thread(urllib.request.urlopen, address)
            await asyncio.sleep(1.5)
            raise ProviderError("unreachable", "nobody there")


async def test_a_slow_start_has_an_end(stand_in: Callable[..., ManagedConfig], tmp_path: Path) -> None:
    """After start_timeout_s the message names that setting."""
    with pytest.raises(ServerError, match="not ready after 1 s; raise start_timeout_s"):
        async with managed_server("toy-slow", stand_in({"mood": "slow"}, 1), tmp_path / "log"):
            pass
    wait_until(lambda: not session_processes("toy-slow"), 5)


async def test_impossible_configs(stand_in: Callable[..., ManagedConfig], tmp_path: Path) -> None:
    """A port in use, a folder without a model and a flag that the run sets are the user's errors."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used"):
            async with managed_server("toy", stand_in({"port": port}), tmp_path / "log"):
                pass
    with pytest.raises(ConfigError, match="served-model-name is set by the run"):
        async with managed_server("toy", stand_in({"served_model_name": "x"}), tmp_path / "log"):
            pass
    with pytest.raises(ConfigError, match="no folder with a model in it"):
        async with managed_server(str(tmp_path / "nothing"), stand_in(), tmp_path / "log"):
            pass


def parent_of(model: str, config: ManagedConfig, log: Path) -> subprocess.Popen[str]:
    """A process of its own that manages a server."""
    command = [sys.executable, "-c", PARENT, model, config.model_dump_json(), str(log)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        # an interrupt is ignored where tests run in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
def test_no_orphans(death: signal.Signals, stand_in: Callable[..., ManagedConfig], tmp_path: Path) -> None:
    """However the parent dies, the server and its engine go with it."""
    parent = parent_of("toy-orphan", stand_in(), tmp_path / "log")
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("http://")
    pids = session_processes("toy-orphan")
    assert len(pids) >= 3
    parent.send_signal(death)
    parent.communicate()
    wait_until(lambda: not alive(pids), 5)


def test_last_words(tmp_path: Path) -> None:
    """The root cause of an engine that failed, behind vLLM's prefixes and before its hollow summary."""
    log = tmp_path / "log"
    log.write_text(
        "(EngineCore pid=7) ERROR 11-21 03:21:12 [core.py:9] ValueError: not enough memory for the KV cache\n"
        "(APIServer pid=6) Traceback (most recent call last):\n"
        "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert last_words(log) == "ValueError: not enough memory for the KV cache"
    log.write_text("just words\n\n")
    assert last_words(log) == "just words"
    log.write_text("")
    assert last_words(log) == "it wrote nothing"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fma avx2 amx_bf16 amx_tile", True),
        ("flags\t\t: fma avx512f avx512_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fma avx2 avx512f", False),
        ("model name\t: bf16", False),
    ],
)
def test_what_computes_in_bfloat16(text: str, found: bool, tmp_path: Path) -> None:
    """Told by the processor's own list; where nothing tells, vLLM decides."""
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{text}\n")
    assert has_bf16(tmp_path / "cpuinfo") is found
    assert has_bf16(tmp_path / "none")


def test_weights_digest(tmp_path: Path) -> None:
    """It follows the content of the files that make the model, not their place or other files."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    here, there = str(tmp_path / "a"), str(tmp_path / "b")
    assert weights_digest(here) == weights_digest(there)
    (tmp_path / "b" / "trainer_state.json").write_text("{}")
    assert weights_digest(here) == weights_digest(there)
    (tmp_path / "b" / "chat_template.jinja").write_text("{{ messages }}")
    assert weights_digest(here) != weights_digest(there)


def ask(text: str, **fields: object) -> Request:
    """A request of one user turn."""
    return Request.model_validate(
        {"messages": (Message(role="user", content=text),), "max_tokens": 24, **fields}
    )


async def test_real_vllm(tmp_path: Path) -> None:
    """The embedded model answers, judges with normalised probabilities, and is gone afterwards."""
    model = str(MODEL_DIR)
    config = ModelConfig(backend="vllm", model=model, managed=ManagedConfig(args=FAST_ON_CPU))
    assert config.managed is not None
    async with managed_server(model, config.managed, tmp_path / "vllm.log") as url:
        chat = open_model("policy", config, endpoint=url)
        assert chat.identity == f"vllm:{weights_digest(model)}"
        await probe(chat)
        one = await chat.complete(ask("Tell me about the museum.", temperature=1.0, seed=2**62))
        two = await chat.complete(ask("Tell me about the museum.", temperature=1.0, seed=2**62))
        assert one.text == two.text
        assert one.usage.completion_tokens > 0
        verdict = await chat.complete(ask("A or B?", choices=("A", "B"), temperature=0.0))
        assert verdict.text in ("A", "B")
        assert verdict.choice_probs is not None
        assert sum(verdict.choice_probs.values()) == pytest.approx(1)
        assert min(verdict.choice_probs.values()) > 0
        words = await chat.complete(ask("Which?", choices=("the first one", "a second one"), temperature=0.0))
        assert words.text in ("the first one", "a second one")
        assert words.choice_probs is not None
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
        strict = {**schema, "additionalProperties": False}
        assert json.loads((await chat.complete(ask("Is it?", schema_=strict))).text)["ok"] in (True, False)
        with pytest.raises(ProviderError) as caught:
            await chat.complete(ask("word " * 4000))
        assert caught.value.kind == "context_length"
        await chat.close()
        wrong = open_model("policy", config.model_copy(update={"model": "nobody"}), endpoint=url)
        for call in (lambda: probe(wrong), lambda: wrong.complete(ask("hello"))):
            with pytest.raises(ProviderError) as caught:
                await call()
            assert caught.value.kind == "not_found"
        await wrong.close()
        pids = session_processes(f"--port {url.rpartition(':')[2].removesuffix('/v1')} ")
        assert len(pids) >= 3
    assert not alive(pids)


async def test_prompts_that_begin_alike_are_cached(engine: Engine) -> None:
    """What prompts share is computed once, with the flags that a run gives its engine, and counted in the usage."""
    chat = open_model("policy", engine.model, endpoint=engine.url)
    first, *rest = [ask("Where is the town hall? " * 20 + f"Case {n}.", max_tokens=1) for n in range(4)]
    usages = [(await chat.complete(request)).usage for request in (first, *rest)]
    assert usages[0].cached_tokens == 0
    assert all(usage.cached_tokens >= 0.5 * usage.prompt_tokens for usage in usages[1:])
    await chat.close()


async def test_real_vllm_names_an_unknown_flag(tmp_path: Path) -> None:
    """The server's own error line reaches the user."""
    config = ManagedConfig(args={"frobnicate": True})
    with pytest.raises(ServerError, match="unrecognized arguments: --frobnicate"):
        async with managed_server(str(MODEL_DIR), config, tmp_path / "log"):
            pass


def test_real_vllm_leaves_no_orphan(tmp_path: Path) -> None:
    """kill -9 of the parent while the engine comes up ends the engine too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ManagedConfig(args={**FAST_ON_CPU, "port": port})
    parent = parent_of(str(MODEL_DIR), config, tmp_path / "log")
    try:
        wait_until(lambda: len(session_processes(f"--port {port} ")) >= 4, 300)
        pids = session_processes(f"--port {port} ")
    finally:
        parent.kill()
        parent.communicate()
    wait_until(lambda: not alive(pids), 60)
