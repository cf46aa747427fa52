"""Schedules for real: runs that fall due do not overlap, the next one re-uses the work, and stopping leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.flows.server import ENDED, post, prefect_environment, running, until_healthy
from tests.flows.small import obliging, small_config, write_inputs
from tests.wire import Fault, Wire, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
BIN = Path(sys.prefix) / "bin"
INTERVAL_S = 10


class Hold:
    """Keeps every call waiting, with 429, as long as it is on."""

    def __init__(self) -> None:
        self.on = True

    def __call__(self, _: int) -> Fault | None:
        return Fault(status=429, headers={"Retry-After": "1"}) if self.on else None


async def ended(api: str, state: str, count: int, log: Path) -> list[dict[str, Any]]:
    """The flow runs in this end state, once there are so many."""
    for _ in range(600):
        try:
            runs = await post(api, "/flow_runs/filter", {"sort": "START_TIME_ASC"})
        except aiohttp.ClientError:
            runs = []
        found = [run for run in runs if run["state_type"] == state and not run["parent_task_run_id"]]
        if len(found) >= count:
            return found
        wrong = [
            run
            for run in runs
            if run["state_type"] in ENDED and run["state_type"] not in (state, "CANCELLED")
        ]
        assert not [run for run in wrong if run["state_type"] != "COMPLETED"], log.read_text()
        await asyncio.sleep(0.5)
    raise AssertionError(f"not {count} runs {state}\n{log.read_text()}")


async def check_schedule(api: str, server: Wire, hold: Hold, log: Path) -> None:
    """A run that is held up while others fall due, then a second one that has nothing to ask."""
    cancelled = await ended(api, "CANCELLED", 1, log)
    assert cancelled[0]["state"]["message"] == "Deployment concurrency limit reached."
    hold.on = False
    await ended(api, "COMPLETED", 1, log)
    calls = server.calls
    first, second, *_ = await ended(api, "COMPLETED", 2, log)
    assert first["end_time"] < second["start_time"]
    assert first["auto_scheduled"] and second["auto_scheduled"]
    assert server.calls == calls > 0


def write_config(folder: Path, endpoint: str) -> Path:
    """The small run's files and its config."""
    write_inputs(folder)
    config = folder / "run.yaml"
    config.write_text(json.dumps(small_config(folder, endpoint, shards=1)))
    return config


async def test_a_schedule_in_a_work_pool(tmp_path: Path) -> None:
    """`cai deploy --interval` makes deployment and pool; under a worker, two runs follow each other."""
    api, environment = prefect_environment(tmp_path)
    hold, log = Hold(), tmp_path / "worker.log"
    async with wire_server(reply=obliging, faults=hold) as server:
        config = write_config(tmp_path, server.openai_url)
        command = [str(BIN / "cai"), "deploy", str(config), "--interval", str(INTERVAL_S), "--json"]
        port = environment["PREFECT_SERVER_API_PORT"]
        start = [str(BIN / "prefect"), "server", "start", "--port", port]
        with running(start, environment, tmp_path / "server.log"):
            await until_healthy(api)
            for created in (True, False):  # a second time changes the one that is there
                done = await asyncio.to_thread(
                    subprocess.run, command, env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, done.stderr
                found = json.loads(done.stdout)
                assert (found["work_pool"], found["pool_created"]) == ("local", created)
                assert found["deployments"][0]["name"] == "cai-pipeline/small"
                assert found["deployments"][0]["schedule"] == f"every {INTERVAL_S} s"
            await check_rescheduled(api, str(config), environment)
            (made,) = [row for row in await post(api, "/deployments/filter", {}) if row["name"] == "small"]
            assert made["global_concurrency_limit"]["limit"] == 1 and len(made["schedules"]) == 1
            assert made["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
            assert made["parameters"]["config"]["judge"]["threshold"] == 0.6
            await check_refused(api, made)
            worker = [str(BIN / "prefect"), "worker", "start", "--pool", "local"]
            with running(worker, environment, log, cwd=tmp_path):
                await check_schedule(api, server, hold, log)


async def check_rescheduled(api: str, config: str, environment: dict[str, str]) -> None:
    """A deployment has the schedule of its last `cai deploy`, and no earlier one."""
    for options, kind in (
        (["--cron", "0 2 1 1 *"], ["cron"]),
        (["--interval", "9d"], ["interval"]),
        ([], []),
    ):
        command = [str(BIN / "cai"), "deploy", config, "--name", "other", *options]
        await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, check=True)
        (made,) = [row for row in await post(api, "/deployments/filter", {}) if row["name"] == "other"]
        assert [next(iter({"cron", "interval"} & set(s["schedule"]))) for s in made["schedules"]] == kind


async def check_refused(api: str, deployment: dict[str, Any]) -> None:
    """A wrong value in the form does not become a run."""
    config = deployment["parameters"]["config"]
    config = config | {"judge": config["judge"] | {"threshold": 0.3}}
    async with aiohttp.ClientSession() as session:
        url = f"{api}/deployments/{deployment['id']}/create_flow_run"
        async with session.post(url, json={"parameters": {"config": config}}) as response:
            assert response.status == 409
            assert "0.3 is less than the minimum of 0.5" in await response.text()


@contextmanager
def serving(
    config: Path, environment: dict[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`cai deploy --serve` without any server; yields the process and the URL, with the login, of its API.

    It hears Ctrl-C also where these tests run in the background.
    """
    command = [str(BIN / "cai"), "deploy", str(config), "--serve", "--interval", str(INTERVAL_S), "--json"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=output, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = ""
        while not lines.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, log.read_text()
            lines += line
        said = json.loads(lines)
        yield process, f"{said['ui'].replace('://', '://' + said['login'] + '@')}/api"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


async def until_gone(home: Path) -> None:
    """No process is left of those that were started with this PREFECT_HOME."""
    marker = f"PREFECT_HOME={home}\0".encode()
    left: list[str] = []
    for _ in range(120):
        left = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if marker in (process / "environ").read_bytes():
                    left.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        if not left:
            return
        await asyncio.sleep(0.25)
    raise AssertionError(left)


def alone(folder: Path) -> tuple[dict[str, str], Path]:
    """An environment that knows of no Prefect server, and its PREFECT_HOME."""
    home = folder / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return environment | {"PREFECT_HOME": str(home)}, home


async def test_a_schedule_without_a_server(tmp_path: Path) -> None:
    """`--serve` brings its own server, keeps the limit, and takes everything with it when it is asked to stop."""
    environment, home = alone(tmp_path)
    hold, log = Hold(), tmp_path / "serve.log"
    async with wire_server(reply=obliging, faults=hold) as server:
        config = write_config(tmp_path, server.openai_url)
        with serving(config, environment, log) as (process, api):
            async with aiohttp.ClientSession() as session:  # another user of this machine
                url = f"http://{api.partition('@')[2]}/flow_runs/filter"
                assert (await session.post(url, json={})).status == 401
            await check_schedule(api, server, hold, log)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 60) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
        await until_gone(home)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(api.rpartition(":")[2].split("/")[0]))) != 0


async def test_ctrl_c_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """The run is ended with the server, nothing is left running, and `cai run` goes on from there."""
    environment, home = alone(tmp_path)
    log = tmp_path / "serve.log"
    async with wire_server(reply=obliging, delay_s=0.3) as server:
        config = write_config(tmp_path, server.openai_url)
        with serving(config, environment, log) as (process, _):
            for _ in range(600):
                if server.calls >= 10:
                    break
                await asyncio.sleep(0.2)
            assert server.calls >= 10, log.read_text()
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, 90) == 0, log.read_text()
        await until_gone(home)
        assert (tmp_path / "outputs" / "small" / "journal").is_dir()
