"""What a flow leaves in Prefect's UI, beside what every run leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from cai.report.status import run_status
from flows.judge import judge
from tests.conduct.test_jury import NAMES, judged_run, same_for_5
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("prefect")]


async def test_what_a_cascade_saves_is_an_artifact(tmp_path: Path) -> None:
    """One line a judge, their sum and the saving, with the figures of the run's status."""
    async with wire_server(reply=same_for_5, models=NAMES) as server:
        config = judged_run(tmp_path, server, {"cascade": ["x", "y"]})
        await judge(config)
    saving = run_status(config.root)["judges"]["judge"]["saving"]
    artifact = await Artifact.aget("small-judges-judge")
    assert artifact is not None
    table = json.loads(str(artifact.data))
    assert [row["judge"] for row in table] == ["x", "y", "all", "saving"]
    assert table[3]["saved_calls"] == saving["saved_calls"] > 0
