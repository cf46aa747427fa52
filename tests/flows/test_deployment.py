"""The README's Prefect section, to the letter: server, work pool, deployment, worker, a run with changed parameters.

The run's model is the loopback server, so that this is about Prefect; the end-to-end test is about vLLM.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flows.server import ENDED, ROOT, post, prefect_environment, running, until_healthy
from tests.flows.small import obliging
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
BIN = Path(sys.prefix) / "bin"


def readme_commands() -> dict[str, str]:
    """The commands of the README's Prefect section by what they start with."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    block = next(block for block in blocks if "prefect server start" in block)
    lines = [line.removeprefix("$ ") for line in block.splitlines()]
    names = ("server start", "work-pool", "deploy --all", "worker start", "deployment run")
    return {name: next(line for line in lines if name in line) for name in names}


def arguments(command: str) -> list[str]:
    """The command as the shell splits it, without leading assignments, on this interpreter's programs."""
    words = [word for word in shlex.split(command) if not re.match(r"^[A-Z_]+=", word)]
    return [str(BIN / Path(words[0]).name), *words[1:]]


async def finished_run(api: str) -> dict[str, Any]:
    """The one flow run, once it has ended."""
    for _ in range(300):
        runs = await post(api, "/flow_runs/filter", {})
        if runs and runs[0]["state_type"] in ENDED:
            return runs[0]
        await asyncio.sleep(0.5)
    raise AssertionError("the flow run did not end")


async def test_a_deployment_runs_with_changed_parameters(tmp_path: Path) -> None:
    """It is scheduled by name, runs under a worker with the overrides, and its artifacts are in the API."""
    api, environment = prefect_environment(tmp_path)
    commands = readme_commands()

    def shell(name: str, *more: str) -> None:
        done = subprocess.run(
            [*arguments(commands[name]), *more],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"

    with running(arguments(commands["server start"]), environment, tmp_path / "server.log"):
        await until_healthy(api)
        async with wire_server(reply=obliging) as server:
            await asyncio.to_thread(shell, "work-pool")
            await asyncio.to_thread(shell, "deploy --all")
            model = {"backend": "vllm", "model": "toy", "endpoint": server.openai_url}
            overrides = [
                "name=tuned", "judge.threshold=0.8", f"outputs={tmp_path / 'outputs'}", "templates=default",
                "prompts.0.limit=12", f"models.tiny={json.dumps(model)}", "sft=null", "dpo=null", "evaluate=null",
            ]  # fmt: skip
            *command, _ = arguments(commands["deployment run"])
            assert command[-1] == "--param"
            commands["deployment run"] = shlex.join([*command, f"overrides={json.dumps(overrides)}"])
            with running(arguments(commands["worker start"]), environment, tmp_path / "worker.log"):
                await asyncio.to_thread(shell, "deployment run")
                run = await finished_run(api)
        assert run["state_type"] == "COMPLETED", (tmp_path / "worker.log").read_text()
        artifacts = {row["key"]: row for row in await post(api, "/artifacts/latest/filter", {})}
    config = json.loads((tmp_path / "outputs" / "tuned" / "config.json").read_text())
    assert config["judge"]["threshold"] == 0.8
    assert {f"tuned-{name}" for name in ("prompts", "generate", "revise", "judge", "pairs")} <= set(artifacts)
    counts = {row["what"]: row["value"] for row in json.loads(artifacts["tuned-generate"]["data"])}
    assert counts["rows_in"] == 12 and counts["rows_out"] == 24
