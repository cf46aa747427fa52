"""Shards on Ray: the bytes of one process, also where a worker is killed, within the bounds of the config."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cai.conduct.work import HERE
from cai.config import RunConfig
from cai.config_file import load_config
from cai.errors import ConfigError, ProviderError
from cai.report.status import run_status
from tests.flows.small import obliging, published, small_config, small_run, write_inputs
from tests.wire import Fault, Wire, wire_server

pytest.importorskip("ray", reason="Ray is not installed (cai[ray])")
pytestmark = pytest.mark.anyio
WORKERS = 2
BUSY = (b"ray::generate", b"ray::revise", b"ray::judge")  # what Ray calls a process with such a task


def test_a_worker_gets_its_share() -> None:
    """Calls in flight and limits per minute are divided; nothing else of the config changes."""
    from flows.cluster import divided

    model: dict[str, Any] = {"backend": "openai", "model": "gpt-5", "max_concurrency": 9}
    model |= {"limits": {"requests_per_minute": 100}}
    config = RunConfig.model_validate(small_config(Path("unused"), "") | {"models": {"toy": model}})
    found = divided(config, WORKERS).models["toy"]
    assert found.max_concurrency == 4
    assert found.limits is not None and found.limits.requests_per_minute == 50
    assert found.limits.tokens_per_minute is None
    assert found.model_copy(update={"max_concurrency": 9, "limits": None}) == config.models["toy"].model_copy(
        update={"limits": None}
    )


@pytest.mark.parametrize(
    ("model", "ray", "words"),
    [
        ({"managed": {}}, {"address": "ray://head:10001"}, r"models\.toy\.managed.*ray\.address"),
        ({"managed": {"in_process": True}}, {}, r"models\.toy\.managed\.in_process"),
        (
            {"endpoint": "http://h/v1", "max_concurrency": 3},
            {"workers": 4},
            r"max_concurrency: 3.*ray\.workers",
        ),
    ],
)
def test_what_workers_cannot_reach_is_refused(
    tmp_path: Path, model: dict[str, Any], ray: dict[str, Any], words: str
) -> None:
    """By name, when the config is read: nothing has been started."""
    config = small_config(tmp_path, "", models={"toy": {"backend": "vllm", "model": "toy", **model}}, ray=ray)
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=words):
        load_config(str(tmp_path / "run.yaml"), [])


def test_a_fatal_error_comes_back_from_another_process() -> None:
    """It keeps its kind, which decides that the run stops."""
    import pickle

    found = pickle.loads(pickle.dumps(ProviderError("unreachable", "nobody there")))  # noqa: S301 - our own bytes
    assert (found.kind, str(found), found.fatal) == ("unreachable", "nobody there", True)


def start(config: Path, home: Path, *options: str) -> subprocess.Popen[bytes]:
    """`cai run CONFIG` with a Prefect home of its own, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "pipeline", str(config), *options],
        env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


async def ended(process: subprocess.Popen[bytes]) -> str:
    """Wait for the end; returns what it wrote to stderr."""
    _, errors = await asyncio.to_thread(process.communicate)
    return (errors or b"").decode()


def workers_of(group: int) -> list[int]:
    """The Ray workers of a run that are busy with a task, by its process group."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
            if words.startswith(BUSY) and os.getsid(int(folder.name)) == group:
                found.append(int(folder.name))
        except OSError:  # gone meanwhile
            continue
    return found


async def kill_one(server: Wire, process: subprocess.Popen[bytes], calls: int) -> bool:
    """SIGKILL a busy worker once the server has seen so many calls; False where the run ended before."""
    while process.poll() is None:
        busy = workers_of(process.pid)
        if server.calls >= calls and busy:
            os.kill(busy[0], signal.SIGKILL)
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("killed_after", [None, 30])
async def test_workers_publish_the_bytes_of_one_process(tmp_path: Path, killed_after: int | None) -> None:
    """No row is lost or doubled, at no more calls than were in flight at the kill; the bound holds over all workers."""
    folders = tmp_path / "one", tmp_path / "ray"
    for folder in folders:
        folder.mkdir()
        write_inputs(folder)
    async with wire_server(reply=obliging) as server:
        from cai.conduct.pipeline import pipeline

        one = small_run(folders[0], server.openai_url)
        await pipeline(one, HERE)
        calls = server.calls
    async with wire_server(reply=obliging, delay_s=0.1) as server:
        config = folders[1] / "run.yaml"
        config.write_text(json.dumps(small_config(folders[1], server.openai_url, ray={"workers": WORKERS})))
        process = start(config, tmp_path / "prefect")
        if killed_after is not None:
            assert await kill_one(server, process, killed_after), await ended(process)
        errors = await ended(process)
        assert process.returncode == 0, errors
        limit = one.models["toy"].max_concurrency
        assert server.peak <= limit
        assert calls <= server.calls <= calls + (0 if killed_after is None else limit // WORKERS)
    root = folders[1] / "outputs" / "small"
    assert published(root) == published(one.root)
    assert run_status(root)["stages"].keys() == run_status(one.root)["stages"].keys()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_what_is_fatal_in_a_worker_ends_the_run_in_one_line(tmp_path: Path) -> None:
    """A key that is refused after some calls: the message of one process, exit status 1, no traceback."""
    write_inputs(tmp_path)

    def refused(call: int) -> Fault | None:
        return Fault(status=401, message="the key was withdrawn") if call >= 5 else None

    async with wire_server(reply=obliging, faults=refused) as server:
        config = tmp_path / "run.yaml"
        config.write_text(json.dumps(small_config(tmp_path, server.openai_url, ray={"workers": WORKERS})))
        process = start(config, tmp_path / "prefect")
        errors = await ended(process)
    assert process.returncode == 1
    lines = [line for line in errors.splitlines() if line.startswith(("error:", "resume with:"))]
    assert "the key was withdrawn" in lines[0] and len(lines) == 2
    assert "Traceback" not in errors


STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
print("let in")
"""


@pytest.mark.slow
def test_a_cluster_of_ours_takes_orders_from_its_own_processes_alone() -> None:
    """Another user of this machine, or of the network, has no token; it stands in no process's arguments."""
    import ray  # before there is a token, as another package may do

    from flows.cluster import TOKEN, own_token

    before = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    with own_token():
        token = os.environ[TOKEN]
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
        try:
            command = [sys.executable, "-c", STRANGER, ray.get_runtime_context().gcs_address]
            for known, let_in in ({}, False), ({"RAY_AUTH_MODE": "token", TOKEN: token}, True):
                asked = subprocess.run(
                    command, env=before | known, capture_output=True, text=True, check=False, timeout=300
                )
                assert ("let in" in asked.stdout) is let_in, asked.stderr
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    assert token.encode() not in process.read_bytes()
        finally:
            ray.shutdown()
    assert TOKEN not in os.environ
