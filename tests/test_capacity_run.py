"""Capacity of a run that was made: its own calls, tokens and speed, and what twice as many prompts would need."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cai.conduct.dataset import judge
from cai.conduct.work import HERE
from cai.config_file import validate_config
from cai.models.metrics import EngineFigures, add_engine
from cai.plan.capacity import make_capacity
from cai.plan.need import Assumed
from cai.report.status import run_status
from tests.flows.small import ROWS, obliging, small_config, small_run, write_inputs
from tests.wire import wire_server

pytestmark = pytest.mark.anyio


async def test_the_run_itself_is_the_first_size(tmp_path: Path) -> None:
    """For as many prompts as the run has, the calls and tokens are those that it made; twice as many, twice that."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config, HERE)
        found = await asyncio.to_thread(make_capacity, config, [ROWS, 2 * ROWS])
    stages = run_status(config.root)["stages"]
    once, twice = found.sizes
    assert sum(need.calls for need in once.needs) == server.calls
    calls = {need.kind: need.calls for need in once.needs}
    assert calls["critique"] + calls["revision"] == stages["revise"]["calls"]
    for kind in ("generate", "judge"):
        need = next(need for need in once.needs if need.kind == kind)
        assert need.calls == stages[kind]["calls"]
        assert need.prompt_tokens == pytest.approx(stages[kind]["prompt_tokens"], rel=2e-3)
        assert need.completion_tokens == pytest.approx(stages[kind]["completion_tokens"], rel=2e-3)
    assert {load.tokens_from for load in found.loads} == {"measured"} and found.prompts_from == "the run"
    assert found.shares_from == "measured on the run's rows"
    assert sum(need.calls for need in twice.needs) == 2 * server.calls
    assert once.disk_bytes and twice.disk_bytes == pytest.approx(2 * once.disk_bytes, abs=1)


async def test_hours_are_those_of_the_run_times_its_prompts(tmp_path: Path) -> None:
    """The measured rate puts the run's own tokens into no more time than it took; on twice the GPUs into half."""
    async with wire_server(reply=obliging, delay_s=0.02) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config, HERE)
        found, more, stated = [
            await asyncio.to_thread(make_capacity, config, [ROWS], assumed)
            for assumed in (Assumed(), Assumed(gpus={"": 2.0}), Assumed(rates={"toy": (10.0, 1.0)}))
        ]
    seconds = 3600 * sum(need.hours or 0 for need in found.sizes[0].needs)
    at_least = server.calls * 0.02 / config.models["toy"].max_concurrency
    one_after_another = sum(stage["seconds"] for stage in run_status(config.root)["stages"].values())
    assert at_least <= seconds <= 1.01 * one_after_another
    assert 3600 * sum(need.hours or 0 for need in more.sizes[0].needs) == pytest.approx(seconds / 2)
    assert stated.engines[0].rate == (10.0, 1.0) and found.engines[0].rate_from == "measured"


async def test_a_cascade_is_asked_what_was_left_open(tmp_path: Path) -> None:
    """The share that went on to the next judge is the run's own."""
    write_inputs(tmp_path)
    async with wire_server(reply=obliging, models=("toy", "x")) as server:
        toy = {"backend": "vllm", "endpoint": server.openai_url, "max_concurrency": 8}
        models = {name: {**toy, "model": name} for name in ("toy", "x")}
        cascade = {"cascade": ["toy", "x"], "principles": 2, "threshold": 0.6}
        config = validate_config(
            small_config(tmp_path, server.openai_url) | {"models": models, "judge": cascade}, "test"
        )
        await judge(config, HERE)
        found = await asyncio.to_thread(make_capacity, config, [ROWS])
    calls = {need.kind: need.calls for need in found.sizes[0].needs}
    stages = run_status(config.root)["stages"]
    assert 0 < stages["judge-x"]["calls"] < stages["judge-toy"]["calls"]
    assert {kind: calls[kind] for kind in ("judge-toy", "judge-x")} == {
        kind: stages[kind]["calls"] for kind in ("judge-toy", "judge-x")
    }


async def test_the_engine_says_what_its_cache_answered(tmp_path: Path) -> None:
    """Where replies do not count cached tokens, the share is the engine's; a given rate is of what is left."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config, HERE)
        for manifest in config.root.glob("*/manifest-*.json"):  # as of a server that counts none
            stored = json.loads(manifest.read_text()) | {"cached_tokens": 0, "check": None}
            manifest.write_text(json.dumps(stored))
        bare = await asyncio.to_thread(make_capacity, config, [ROWS], Assumed(rates={"": (1e3, 1e9)}))
        figures = EngineFigures(
            names=("toy",), way="server", start_s=1.0, requests=1, prompt_tokens=100, generation_tokens=1,
            prefix_queries=100, prefix_hits=75,
        )  # fmt: skip
        add_engine(config.root, figures)
        cached = await asyncio.to_thread(make_capacity, config, [ROWS], Assumed(rates={"": (1e3, 1e9)}))
    assert {load.cached for load in bare.loads} == {0.0} and {load.cached for load in cached.loads} == {0.75}
    hours = [sum(need.hours or 0 for need in found.sizes[0].needs) for found in (bare, cached)]
    assert hours[1] == pytest.approx(hours[0] / 4, rel=1e-3)
