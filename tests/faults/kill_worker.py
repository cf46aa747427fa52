"""kill -9 around a Prefect worker that runs a deployment: the worker, the run that it has started, or both at once."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import aiohttp

from tests.faults.after import check_end, check_files, kill, left, mark, until_gone
from tests.faults.kill import DELAY_S, Environment, Process, Tally, Whole, plain, root_of, undisturbed
from tests.faults.scene import Result, Scenario, until_calls, write_config
from tests.flows.server import ENDED, post, prefect_environment, running, until_healthy
from tests.flows.small import obliging
from tests.wire import Wire, wire_server

BIN = Path(sys.prefix) / "bin"
FASTER = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
VICTIMS = ("both", "worker", "run")
ASK_S = 5.0


async def worker_killed(folder: Path, seed: int, times: int) -> Result:
    """A worker of a process pool and the run of a deployment that it has started; by turns both, and one of them.

    Then a worker is started and the deployment run again. A run whose worker is killed does not outlive it for long.
    """
    rng, tally = random.Random(seed), Tally()
    api, environment = prefect_environment(folder)
    environment |= FASTER
    command = [str(BIN / "prefect"), "server", "start", "--port", environment["PREFECT_SERVER_API_PORT"]]
    async with wire_server(reply=obliging, delay_s=DELAY_S) as server:
        whole = await undisturbed(plain, write_config(folder / "whole", server.openai_url), server)
        with running(command, environment, folder / "server.log"):
            await until_healthy(api)
            for number in range(times):
                config = write_config(folder / f"run-{number}", server.openai_url)
                deployment = await _deploy(config, environment)
                victim, share = VICTIMS[number % len(VICTIMS)], rng.random() * 0.8
                await _kill_one(api, deployment, environment, config, (victim, share), server, whole, tally)
    return tally.result(
        "kill -9 of a Prefect worker", "from the kill until a run of the deployment was through"
    )


async def _kill_one(
    api: str,
    deployment: str,
    environment: Environment,
    config: Path,
    fault: tuple[str, float],
    server: Wire,
    whole: Whole,
    tally: Tally,
) -> None:
    victim, share = fault
    before, marked = server.calls, mark()
    worker = _worker(environment | marked, config.with_name("worker-1.log"))
    await _ask(api, deployment)
    assert await until_calls(server, worker, before + 1 + int(share * whole.calls)), "the worker ended"
    runs = [pid for pid in left(marked) if pid not in left(marked, "prefect worker start")]
    killed = time.monotonic()
    kill([*runs, worker.pid] if victim == "both" else [worker.pid] if victim == "worker" else runs)
    tally.kills += 1
    if victim == "both":
        await until_gone(marked)
        await _crashed(api, deployment)
    check_files(root_of(config))
    again = mark()
    second = worker if victim == "run" else _worker(environment | again, config.with_name("worker-2.log"))
    await _until_completed(api, deployment)
    tally.seconds.append(time.monotonic() - killed)
    kill([second.pid])
    for process in {worker, second}:
        await asyncio.to_thread(process.wait, 60)
    await until_gone(marked)
    await until_gone(again)
    check_end(root_of(config))
    tally.compare(whole, root_of(config), server.calls - before)


def _worker(environment: Environment, log: Path) -> Process:
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(BIN / "prefect"), "worker", "start", "--pool", "local"],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def _deploy(config: Path, environment: Environment) -> str:
    """`cai deploy` under the name of the config's folder; returns the deployment's id."""
    command = [str(BIN / "cai"), "deploy", str(config), "--name", config.parent.name, "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    url: str = json.loads(done.stdout)["deployments"][0]["url"]
    return url.rpartition("/")[2]


async def _ask(api: str, deployment: str) -> None:
    """Ask for a run of the deployment."""
    url = f"{api}/deployments/{deployment}/create_flow_run"
    async with aiohttp.ClientSession() as session, session.post(url, json={}) as response:
        assert response.status in (201, 503), (
            await response.text()
        )  # 503: its database is busy; asked again later


async def _crashed(api: str, deployment: str) -> None:
    """Say so of the run that nobody is left to say it of, as its page in Prefect's UI lets one do.

    Else its deployment is free for another run five minutes later only.
    """
    mine = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
    }
    (run,) = await post(api, "/flow_runs/filter", mine)
    state = {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True}
    url = f"{api}/flow_runs/{run['id']}/set_state"
    async with aiohttp.ClientSession() as session, session.post(url, json=state) as response:
        assert response.status == 201, await response.text()


async def _until_completed(api: str, deployment: str) -> None:
    """Ask for runs, one after the other, until one is through; those asked too early are cancelled by Prefect."""
    mine = {"deployments": {"id": {"any_": [deployment]}}, "sort": "START_TIME_ASC"}
    async with asyncio.timeout(600):
        while True:
            runs = await post(api, "/flow_runs/filter", mine)
            states = [run["state_type"] for run in runs if "id" in run]
            if "COMPLETED" in states:
                return
            if states and sum(state not in ENDED for state in states) <= (states[0] not in ENDED):
                await _ask(api, deployment)
            await asyncio.sleep(ASK_S)


SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "kill -9 of a Prefect worker, of its run, of both": (worker_killed, 3)
}
