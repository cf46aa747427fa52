"""kill -9 anywhere: the run is started again and ends with the bytes of an undisturbed one."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.small import obliging, published, small_config, write_inputs
from tests.wire import Wire, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
LIMIT = 8  # max_concurrency of the small run
KILLS = 3


def start(config: Path, home: Path) -> subprocess.Popen[bytes]:
    """`cai run CONFIG` with a Prefect home and a process group of its own; it hears Ctrl-C also in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "pipeline", str(config)],
        env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


async def finish(process: subprocess.Popen[bytes]) -> bytes:
    """Wait for the end; returns what it wrote to stderr."""
    _, errors = await asyncio.to_thread(process.communicate)
    return errors or b""


async def until_calls(wire: Wire, process: subprocess.Popen[bytes], calls: int) -> bool:
    """Wait until the server has seen so many calls; False where the process ended before."""
    while wire.calls < calls:
        if process.poll() is not None:
            return False
        await asyncio.sleep(0.01)
    return True


async def test_kill_and_resume(tmp_path: Path) -> None:
    """Killed at random points, the run ends with identical bytes; repeated calls ≤ calls in flight at the kills."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    roots = []
    calls = []
    for folder, kills in ((whole, 0), (broken, KILLS)):
        folder.mkdir()
        write_inputs(folder)
        async with wire_server(reply=obliging, delay_s=0.05) as server:
            config = folder / "run.yaml"
            config.write_text(json.dumps(small_config(folder, server.openai_url)))
            for at in sorted(random.Random(7).sample(range(10, 150), kills)):
                process = start(config, tmp_path / "prefect")
                assert await until_calls(server, process, at), "the run ended before it could be killed"
                os.killpg(process.pid, signal.SIGKILL)
                await finish(process)
            errors = await finish(last := start(config, tmp_path / "prefect"))
            assert last.returncode == 0, errors.decode()
            calls.append(server.calls)
            roots.append(folder / "outputs" / "small")
    assert published(roots[1]) == published(roots[0])
    assert calls[0] <= calls[1] <= calls[0] + KILLS * LIMIT


async def test_an_interrupt_says_how_to_resume(tmp_path: Path) -> None:
    """Ctrl-C ends in seconds with one line that holds the command to go on with."""
    write_inputs(tmp_path)
    async with wire_server(reply=obliging, delay_s=0.2) as server:
        config = tmp_path / "run.yaml"
        config.write_text(json.dumps(small_config(tmp_path, server.openai_url)))
        process = start(config, tmp_path / "prefect")
        assert await until_calls(server, process, 10)
        process.send_signal(signal.SIGINT)
        errors = (await asyncio.wait_for(finish(process), 20)).decode()
    assert process.returncode == 130
    assert f"resume with: cai run {config}" in errors
    assert "Traceback" not in errors
