"""The README's section on schedules, to the letter: server, deployments, worker, changed parameters, the nightly run.

The runs' model is the loopback server, so that this is about Prefect; the end-to-end test is about vLLM.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cai.constitution import load_constitution
from cai.export.versions import read_changes, versions_of
from flows.wanted import FLOWS
from tests.flows.server import ENDED, ROOT, post, prefect_environment, running, until_healthy
from tests.flows.small import obliging
from tests.wire import Answer, Json, asked_choices, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
BIN = Path(sys.prefix) / "bin"


def readme_commands() -> dict[str, str]:
    """The commands of the section by what tells them apart."""
    section = (ROOT / "README.md").read_text().split("## Schedules", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    names = ("server start", "embedded.yaml --cron", "worker start", "run cai-pipeline", "mkdir", "--flow nightly",
             "run cai-nightly", "--serve", "deploy --all")  # fmt: skip
    found = {name: [line for line in lines if name in line] for name in names}
    assert all(len(hits) == 1 for hits in found.values()), found
    return {name: hits[0] for name, hits in found.items()}


def arguments(command: str) -> list[str]:
    """The command as the shell splits it, without leading assignments, on this interpreter's programs."""
    words = [word for word in shlex.split(command) if not re.match(r"^[A-Z_]+=", word)]
    program = BIN / Path(words[0]).name
    return [str(program) if program.is_file() else words[0], *words[1:]]


def changed(url: str, outputs: Path) -> list[str]:
    """What a test changes of the demo: its model is the loopback server, nothing is trained."""
    model = {"backend": "vllm", "model": "toy", "endpoint": url}
    return [
        f"outputs={outputs}", "templates=default", "prompts.0.limit=12", "judge.require_qualification=false",
        f"models.tiny={json.dumps(model)}", "sft=null", "dpo=null", "evaluate=null",
    ]  # fmt: skip


class Judging:
    """The obliging model, as a judge of the toy constitution's tests: right, or wrong when `right` is off."""

    def __init__(self) -> None:
        self.right = False
        tests = [
            test for p in load_constitution(ROOT / "constitutions/toy.yaml").principles for test in p.tests
        ]
        self._better, self._worse = ({getattr(test, side) for test in tests} for side in ("better", "worse"))

    def __call__(self, body: Json) -> Answer:
        text = body["messages"][-1]["content"]
        shown = re.findall(r"reply [AB]>\n(.*?)\n</", text, re.S)
        if not asked_choices(body) or len(shown) != 2 or not set(shown) <= self._better | self._worse:
            return obliging(body)
        p = 0.9 if (shown[0] in self._better) == self.right else 0.1
        return Answer("A" if p > 0.5 else "B", {"A": p, "B": 1 - p})


async def ended(api: str, count: int) -> dict[str, Any]:
    """The newest run of a deployment, once so many have ended."""
    for _ in range(400):
        runs = await post(api, "/flow_runs/filter", {"sort": "START_TIME_DESC"})
        done = [run for run in runs if run["state_type"] in ENDED and not run["parent_task_run_id"]]
        if len(done) >= count:
            return done[0]
        await asyncio.sleep(0.5)
    raise AssertionError(f"not {count} flow runs ended")


async def test_the_walk_through(tmp_path: Path) -> None:
    """Deployed, run by name with other parameters, refused with a bad judge, grown by a night: all as it is written."""
    api, environment = prefect_environment(tmp_path)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("cai", "constitutions", "flows"):
        (checkout / name).symlink_to(ROOT / name)
    environment["PWD"] = str(checkout)
    commands, judging = readme_commands(), Judging()

    async def shell(name: str, *more: str) -> None:
        done = await asyncio.to_thread(
            subprocess.run, [*arguments(commands[name]), *more], cwd=checkout, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"

    log, outputs = tmp_path / "worker.log", tmp_path / "outputs"
    async with wire_server(reply=judging) as server:
        sets = [f"--set={value}" for value in changed(server.openai_url, outputs)]
        with running(arguments(commands["server start"]), environment, tmp_path / "server.log"):
            await until_healthy(api)
            await shell("embedded.yaml --cron", *sets)
            with running(arguments(commands["worker start"]), environment, log, cwd=tmp_path):
                await shell("run cai-pipeline")
                run = await ended(api, 1)
                assert run["state_type"] == "COMPLETED", log.read_text()
                await shell("mkdir")
                await shell("--flow nightly", *sets)
                await shell("run cai-nightly", "--param", 'overrides=["name=doubtful"]')
                run = await ended(api, 2)
                assert run["state_type"] == "FAILED", log.read_text()
                assert re.search(
                    r"the judge passes 0 of \d+ tests.*; no version .*failing: \w", run["state"]["message"]
                )
                assert not (outputs / "doubtful" / "versions").exists()
                judging.right = True
                await shell("run cai-nightly")
                run = await ended(api, 3)
                assert run["state"]["message"].startswith("version 0001: prompts 12 (+12 −0)"), (
                    log.read_text()
                )
                arrive(checkout / "inbox" / "monday.jsonl")
                await shell("run cai-nightly")
                run = await ended(api, 4)
                assert run["state"]["message"].startswith("version 0002: prompts 13 (+1 −0)"), log.read_text()
            await shell("deploy --all")
            deployed = await post(api, "/deployments/filter", {})
            artifacts = {row["key"]: row for row in await post(api, "/artifacts/latest/filter", {})}
    check_tuned(outputs, artifacts)
    assert [path.name for path in versions_of(outputs / "growing")] == ["0001", "0002"]
    assert read_changes(outputs / "growing" / "versions" / "latest").prompts.added == 1
    by_flow = {
        row["entrypoint"].rsplit(":")[-1] for row in deployed if row["entrypoint"].startswith("flows/")
    }
    assert by_flow == set(FLOWS)
    assert all(row["global_concurrency_limit"]["limit"] == 1 for row in deployed)


def arrive(path: Path) -> None:
    """A new prompt that has been lying in the inbox for an hour."""
    path.write_text(json.dumps({"prompt": "Tell me about rivers."}) + "\n")
    os.utime(path, (time.time() - 3600, time.time() - 3600))


def check_tuned(outputs: Path, artifacts: dict[str, dict[str, Any]]) -> None:
    """The run by hand had the parameters that were given, and its stages are artifacts."""
    config = json.loads((outputs / "tuned" / "config.json").read_text())
    assert config["judge"]["threshold"] == 0.8
    stages = ("prompts", "generate", "revise", "judge", "pairs")
    assert {f"tuned-{name}" for name in stages} | {"growing-version", "growing-tests-constitution"} <= set(
        artifacts
    )
    counts = {row["what"]: row["value"] for row in json.loads(artifacts["tuned-generate"]["data"])}
    assert counts["rows_in"] == 12 and counts["rows_out"] == 24
