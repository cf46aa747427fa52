"""Keys are nowhere but in the environment: planted, echoed by servers, and looked for in everything a run writes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sqlite3
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.small import obliging, small_config, write_inputs
from tests.test_models_managed import STAND_IN
from tests.wire import Fault, Wire, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
NAMES = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OWN_KEY", "HF_TOKEN", "WANDB_API_KEY", "CAI_MANAGED_KEY")
KEYS = {name: f"canary-{name.lower()}-7c1e59d20ab84f36" for name in NAMES}
SEP = " or Bearer "


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop that is supported."""
    return "asyncio"


def disguises(key: str) -> list[bytes]:
    """A key as it stands, quoted for an address, backwards, and in base64 at each of the three offsets."""
    encoded = key.encode()
    offsets = [base64.b64encode(b"\0" * n + encoded)[4 if n else 0 : -4] for n in range(3)]
    return [encoded, urllib.parse.quote(key, safe="").encode(), encoded[::-1], *offsets]


def leaks(data: bytes) -> list[str]:
    """The variables whose keys are in it."""
    return [name for name, key in KEYS.items() if any(form in data for form in disguises(key))]


def leaks_below(folder: Path) -> dict[str, list[str]]:
    """What leaks in the files below a folder, names included; a database is looked at row by row as well."""
    found = {str(path): leaks(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    found |= {f"{path} (name)": leaks(str(path).encode()) for path in folder.rglob("*")}
    for path in folder.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            found[f"{path} (rows)"] = leaks("\n".join(database.iterdump()).encode("utf-8", "surrogatepass"))
    return {path: names for path, names in found.items() if names}


def arguments() -> bytes:
    """The arguments of every process of this machine."""
    found = b""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += process.read_bytes() + b"\n"
    return found


async def ended(
    command: list[str], environment: dict[str, str], folder: Path
) -> tuple[int, bytes, list[str]]:
    """Run a command; its exit status, all that it said, and the keys seen in arguments while it ran."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    seen: set[str] = set()
    said = asyncio.ensure_future(process.communicate())
    while not said.done():
        seen |= set(leaks(arguments()))
        await asyncio.sleep(0.2)
    output, _ = await said
    assert process.returncode is not None
    return process.returncode, output, sorted(seen)


class Echo:
    """Every so many calls an error that repeats all keys, as a proxy does that tells what it was sent."""

    def __init__(self, status: int, every: int) -> None:
        self.status, self.every = status, every

    def __call__(self, call: int) -> Fault | None:
        if call % self.every != self.every - 1:
            return None
        return Fault(status=self.status, message=f"not with Authorization {SEP.join(KEYS.values())}")


def config_of(folder: Path, server: Wire, name: str, backend: str = "vllm") -> Path:
    """The small run's config, with a model that wants a key; returns its path."""
    write_inputs(folder)
    endpoint = server.url if backend == "anthropic" else server.openai_url
    model: dict[str, Any] = {"backend": backend, "model": "toy", "endpoint": endpoint, "max_concurrency": 4}
    if backend == "vllm":
        model["api_key_env"] = "OWN_KEY"
    changes: dict[str, Any] = {"name": name, "shards": 1, "models": {"toy": model}}
    if backend == "anthropic":
        judge = {"model": "toy", "principles": 1, "method": "stated", "sampling": {"temperature": None}}
        changes |= {
            "judge": judge,
            "policy": {"model": "toy", "sampling": {"temperature": None, "top_p": None}},
        }
        changes["critic"] = {"model": "toy", "sampling": {"temperature": None, "top_p": None}}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(small_config(folder, endpoint, **changes)))
    return path


def environment(folder: Path) -> dict[str, str]:
    """The environment of a run with all keys set, and a Prefect home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | KEYS | {"PREFECT_HOME": str(folder / "prefect"), "RAY_USAGE_STATS_ENABLED": "0"}


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    """In a file, a name, a database, and disguised; else this module would prove nothing."""
    key = KEYS["OWN_KEY"]
    for index, form in enumerate((key, key[::-1], base64.b64encode(f"ab{key}".encode()).decode())):
        (tmp_path / f"{index}.txt").write_text(f"x{form}y")
    (tmp_path / key).touch()
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("create table t (v text)")
        database.execute("insert into t values (?)", (key,))
        database.commit()
    assert len(leaks_below(tmp_path)) == 6
    assert not leaks(b"canary-own_key")


async def test_nothing_of_a_run_with_prefect_holds_a_key(tmp_path: Path) -> None:
    """Errors that echo it in the middle, a run that ends well, then one whose key is refused: nowhere on disk."""
    echo = Echo(500, 7)
    async with wire_server(reply=obliging, faults=echo) as server:
        config = config_of(tmp_path, server, "good")
        code, output, seen = await ended(
            [sys.executable, "-m", "flows", "pipeline", str(config)], environment(tmp_path), tmp_path
        )
        assert code == 0, output.decode()
        echo.status = 401
        config = config_of(tmp_path, server, "refused")
        code, refused, more = await ended(
            [sys.executable, "-m", "flows", "pipeline", str(config)], environment(tmp_path), tmp_path
        )
        assert code == 1 and b"401" in refused
        assert any(KEYS["OWN_KEY"] in headers.get("Authorization", "") for headers in server.headers)
    assert (tmp_path / "prefect" / "prefect.db").is_file()
    assert list((tmp_path / "outputs").rglob("report.html"))
    assert not leaks(output) and not leaks(refused) and not seen and not more
    assert leaks_below(tmp_path) == {}


@pytest.mark.parametrize("backend", ["openai", "anthropic"])
async def test_nothing_of_a_run_without_prefect_holds_a_key(backend: str, tmp_path: Path) -> None:
    """A provider that echoes the key while it refuses requests for good, so that drops carry its words."""
    async with wire_server(reply=obliging, faults=Echo(400, 5)) as server:
        config = config_of(tmp_path, server, backend, backend)
        command = [sys.executable, "-m", "cai", "run", str(config), "--no-prefect"]
        code, output, seen = await ended(command, environment(tmp_path), tmp_path)
        assert server.headers, output.decode()
    drops = b"".join(path.read_bytes() for path in tmp_path.rglob("drops-*.jsonl"))
    assert b"not with" in drops, output.decode()
    assert code in (0, 1)
    assert not leaks(output) and not seen
    assert leaks_below(tmp_path) == {}


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which vLLM's server is a stand-in that tells whether it has a key, and serves nothing."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(STAND_IN)
    yield environment(tmp_path) | {"PYTHONPATH": str(tmp_path / "site")}


async def test_a_managed_server_gets_its_key_by_the_environment(
    stand_in: dict[str, str], tmp_path: Path
) -> None:
    """Neither its arguments nor its log hold the key, nor what becomes of a run whose server serves nothing."""
    async with wire_server() as server:
        config = json.loads(config_of(tmp_path, server, "managed").read_text())
    config["models"]["toy"] = {
        "backend": "vllm",
        "model": "toy",
        "managed": {},
        "timeout_s": 5,
        "deadline_s": 5,
    }
    path = tmp_path / "managed.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "cai", "run", str(path), "--no-prefect"]
    code, output, seen = await ended(command, stand_in, tmp_path)
    logs = [log.read_text() for log in (tmp_path / "outputs").rglob("vllm*.log")]
    assert code == 1 and logs and all("key True" in log for log in logs), output.decode()
    assert not leaks(output) and not seen
    assert leaks_below(tmp_path) == {}
