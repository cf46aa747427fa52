"""A target of pairs as a Prefect flow: the same dataset as without Prefect, and the same number of calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai.conduct.dataset import judge as here
from cai.conduct.work import HERE
from flows.judge import judge
from tests.conduct.test_target import dataset, model, targeted
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("prefect")]


async def test_a_flow_draws_what_a_process_draws(tmp_path: Path) -> None:
    """Waves are tasks of the flow; running the flow where the process has run asks nothing."""
    for name in ("process", "flow"):
        (tmp_path / name).mkdir()
    async with wire_server(reply=model(0.4)) as server:
        alone = targeted(tmp_path / "process", server, 40)
        await here(alone, HERE)
        calls = server.calls
        config = targeted(tmp_path / "flow", server, 40)
        assert (await judge(config))["preference"] == 40
        assert server.calls == 2 * calls and dataset(config) == dataset(alone)
        await judge(alone)
        assert server.calls == 2 * calls
