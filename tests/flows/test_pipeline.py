"""The pipeline flow against the loopback server: everything accounted for, nothing asked twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cai.errors import ConfigError
from cai.report.status import run_status
from flows.generate import generate
from flows.judge import judge
from flows.pipeline import pipeline
from flows.revise import revise
from tests.flows.small import ROWS, obliging, published, small_run
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("prefect")]


def check_accounting(stages: dict[str, Any]) -> None:
    """Rows in = rows out + drops, stage by stage; what one stage lets through is what the next one reads."""
    assert stages["prompts"]["rows_in"] == ROWS + 2
    assert stages["prompts"]["drops"] == {"duplicate": 1, "empty_prompt": 1}
    assert stages["generate"]["rows_in"] == stages["prompts"]["rows_out"] == ROWS
    assert stages["generate"]["rows_out"] + sum(stages["generate"]["drops"].values()) == 2 * ROWS
    for name in ("revise", "judge", "pairs", "demonstrations"):
        stage = stages[name]
        assert stage["rows_in"] == stage["rows_out"] + sum(stage["drops"].values()) > 0
    assert stages["pairs"]["rows_in"] == stages["judge"]["rows_out"]
    assert stages["demonstrations"]["rows_in"] == stages["revise"]["rows_out"]


async def test_rows_are_accounted_for_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    """The first run's counts add up; an identical one makes no call, also when only the journal is left."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await pipeline(config)
        check_accounting(run_status(config.root)["stages"])
        first, calls = published(config.root), server.calls
        assert calls == sum(stage["calls"] for stage in run_status(config.root)["stages"].values())
        await pipeline(config)
        assert server.calls == calls
        for stage in ("generate", "revise", "judge", "pairs", "demonstrations"):
            shutil.rmtree(config.root / stage)
        await pipeline(config)
        assert server.calls == calls
        assert published(config.root) == first


async def test_the_flows_of_single_stages_build_on_each_other(tmp_path: Path) -> None:
    """Each goes as far as its name says, and asks only for what the one before it did not."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        assert set(await generate(config)) == {"prompts", "generate"}
        replies = server.calls
        assert replies == 2 * ROWS
        assert set(await revise(config)) == {"prompts", "generate", "revise"}
        revisions = server.calls
        found = await judge(config, ["judge.threshold=0.9"])
        assert found["preference"] > 0 and found["sft"] > 0
        asked = server.requests[revisions:]
        assert replies < revisions and all("structured_outputs" in body for body in asked)


async def test_a_run_that_cannot_work_asks_nothing(tmp_path: Path) -> None:
    """A wrong model name, an endpoint without a server and a bad constitution end before the first call."""
    async with wire_server(reply=obliging, models=["other"]) as server:
        config = small_run(tmp_path, server.openai_url)
        with pytest.raises(ConfigError, match=r"models\.toy.*toy.*other"):
            await pipeline(config)
        (tmp_path / "small.yaml").write_text("schema: 1\n")
        with pytest.raises(ConfigError, match=r"small\.yaml:1"):
            await pipeline(config)
        assert server.calls == 0
    config = small_run(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match=r"models\.toy.*127\.0\.0\.1:9"):
        await pipeline(config)
