"""kill -9 anywhere: what is started again ends with the bytes of an undisturbed run. `make soak` kills more often."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.after import clear
from tests.faults.kill import prefect_run_killed, run_killed, with_prefect
from tests.faults.kill_engine import server_killed
from tests.faults.kill_training import training_killed
from tests.faults.scene import Scenario, check, ended, until_calls, write_config
from tests.flows.small import obliging
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    """Nothing of a scenario that failed stays behind."""
    yield
    clear()


@pytest.mark.parametrize(
    ("scenario", "seed", "times"),
    [(run_killed, 1, 2), (prefect_run_killed, 3, 1), (server_killed, 1, 4), (training_killed, 1, 1)],
)
async def test_killed(scenario: Scenario, seed: int, times: int, tmp_path: Path) -> None:
    """No row lost or doubled, no call repeated but those in flight, no process left, no half-written file."""
    result = check(await scenario(tmp_path, seed, times))
    assert result.injected == times and result.recover_s


async def test_an_interrupt_says_how_to_resume(tmp_path: Path) -> None:
    """Ctrl-C ends in seconds with one line that holds the command to go on with."""
    async with wire_server(reply=obliging, delay_s=0.2) as server:
        config = write_config(tmp_path / "run", server.openai_url)
        process = with_prefect(config, {})
        assert await until_calls(server, process, 10)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(ended(process), 60)
    assert process.returncode == 130
    assert f"resume with: cai run {config}" in errors
    assert "Traceback" not in errors
