"""Step-wise data through Prefect: the same rows as without it, by the same calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.judge import judge
from flows.tasks import kind_of
from tests.conduct import here
from tests.conduct.test_stepwise import run_of, stepping
from tests.flows.small import published
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("prefect")]


async def test_rows_do_not_depend_on_who_runs_the_stages(tmp_path: Path) -> None:
    """A task a shard of the stage `steps`, and the part of the dataset in the end."""
    found, calls = [], []
    for name, run in (("here", here.judge), ("flow", judge)):
        async with wire_server(reply=stepping) as server:
            config = run_of(tmp_path / name, server)
            counts = await run(config)
            calls.append(server.calls)
        assert counts["stepwise"] > 0
        found.append(published(config.root))
    assert found[0] == found[1] and calls[0] == calls[1]
    assert kind_of("steps") == "steps"
