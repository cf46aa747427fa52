"""Exactly N accepted pairs against the loopback server: drawn in waves, in order, and nothing asked in vain."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai.conduct.dataset import judge
from cai.conduct.pipeline import pipeline
from cai.conduct.work import HERE
from cai.config import RunConfig
from cai.config_file import validate_config
from cai.errors import ProviderError, TargetError
from cai.pipeline import read_stage
from cai.plan.make import make_plan
from cai.report.status import read_json, run_status
from cai.report.summary import print_status
from cai.rows import Demonstration, Pair
from cai.target import SLICE
from tests.flows.small import CONSTITUTION, small_config
from tests.wire import Answer, Fault, Json, Wire, asked_choices, echo, wire_server

pytestmark = pytest.mark.anyio
PROMPTS = 400


def model(share: float, revised: bool = False) -> Callable[[Json], Answer]:
    """A model whose judge is sure of the longer reply for this share of the prompts, and of nothing for the others."""

    def reply(body: Json) -> Answer:
        text = body["messages"][-1]["content"]
        number = int(re.findall(r"about (\d+)", text)[0])
        if "Yes" in asked_choices(body):
            return Answer("Yes", {"Yes": 0.9, "No": 0.1})
        if asked_choices(body):
            a, b = re.findall(r"reply [AB]>\n(.*?)\n</", text, re.S)
            sure = 0.5 if (number * 37) % 100 >= 100 * share else 0.95 if a > b else 0.05
            return Answer("A" if sure > 0.5 else "B", {"A": sure, "B": 1 - sure})
        if "VERDICT" in text:
            return Answer(f"Seen.\nVERDICT: {'breaks' if revised and number % 2 else 'keeps'}")
        return echo(body)

    return reply


def targeted(folder: Path, server: Wire, target: int | None, **changes: Any) -> RunConfig:
    """A small run with a target, over PROMPTS prompts and a few rows that are none."""
    (folder / "small.yaml").write_text(CONSTITUTION)
    rows: list[dict[str, Any]] = [
        {"id": f"p{n}", "prompt": f"Tell me about {n}."} for n in range(changes.pop("prompts", PROMPTS))
    ]
    rows[70:70] = [{"id": "empty", "prompt": " "}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    concurrency = changes.pop("concurrency", 8)
    toy = {
        "backend": "vllm",
        "model": "toy",
        "endpoint": server.openai_url,
        "max_concurrency": concurrency,
    }
    models = {"toy": toy} | ({"x": {**toy, "model": "x"}} if changes.pop("two", False) else {})
    base = small_config(folder, server.openai_url)
    return validate_config(
        base | {"models": models, "pairs": {"target": target}, "shards": 7} | changes, "test"
    )


def dataset(config: RunConfig) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in config.root.glob("dataset/*/train.jsonl")}


def check_accounts(config: RunConfig) -> dict[str, Any]:
    """Every row that came into a stage is out of it, or dropped for a reason."""
    stages: dict[str, Any] = run_status(config.root)["stages"]
    for name, stage in stages.items():
        rows = stage["rows_out"] + sum(stage["drops"].values())
        out = {"generate": 2 * stage["rows_in"]}.get(name, stage["rows_in"])
        assert rows == out, name
    return stages


@pytest.mark.parametrize("share", [1.0, 0.5, pytest.param(0.2, marks=pytest.mark.slow)])
async def test_exactly_as_many_pairs_as_wanted(share: float, tmp_path: Path) -> None:
    """In the order of the prompts, with the demonstrations up to there; calls for the prefix and one wave at most."""
    async with wire_server(reply=model(share)) as server:
        config = targeted(tmp_path, server, 60)
        found = await judge(config, HERE)
        assert found["preference"] == 60
        reached = read_json(config.root / "target.json")
        pairs = list(read_stage(run_config(config), "pairs", Pair))
        wanted = [f"p{n}" for n in range(PROMPTS) if (n * 37) % 100 < 100 * share][:60]
        assert [pair.id.split("/")[0] for pair in pairs] == wanted
        last = int(wanted[-1][1:])
        assert reached["prompt"] == wanted[-1] and reached["shard"] == last // SLICE
        demonstrations = list(read_stage(run_config(config), "demonstrations", Demonstration))
        assert [d.id.split("/")[0] for d in demonstrations] == [f"p{n}" for n in range(last + 1)]
        needed = (last // SLICE + 1) * SLICE
        per_prompt = 2 + 2 + 2 * 2  # replies, critiques, both orders of two principles
        assert server.calls <= (needed + SLICE) * per_prompt
        stages = check_accounts(config)
        assert (
            stages["prompts"]["rows_out"] == reached["drawn"] <= needed + SLICE
            and reached["prompts"] == PROMPTS
        )
        assert stages["pairs"]["drops"].get("beyond_target", 0) == reached["pairs"] - 60
        before, files = server.calls, dataset(config)
        assert await judge(config, HERE) == found
        assert server.calls == before and dataset(config) == files


def run_config(config: RunConfig) -> RunConfig:
    """The config as the run has stored it, with the slices that it drew."""
    return validate_config(read_json(config.root / "config.json"), "stored")


@pytest.mark.slow
async def test_the_same_bytes_whatever_the_waves(tmp_path: Path) -> None:
    """Concurrency decides how large a wave is, never what is in the dataset."""
    found = []
    async with wire_server(reply=model(0.3, revised=True)) as server:
        for concurrency in (4, 100, 300):
            folder = tmp_path / str(concurrency)
            folder.mkdir()
            config = targeted(folder, server, 50, concurrency=concurrency)
            await judge(config, HERE)
            found.append((dataset(config), read_json(config.root / "target.json")))
        calls = server.calls  # wider waves, in a folder where all that is needed is there
        await judge(targeted(tmp_path / "4", server, 50, concurrency=300), HERE)
        assert server.calls == calls
    assert found[0][0] == found[1][0] == found[2][0] and len(found[0][0]) == 2
    assert {one["last"] for _, one in found} == {found[0][1]["last"]}
    assert found[0][1]["drawn"] < found[2][1]["drawn"]


@pytest.mark.slow
async def test_another_target_asks_only_for_new_prompts(tmp_path: Path) -> None:
    """Up: nothing that is there is asked again. Down, and up again: nothing at all is asked."""
    async with wire_server(reply=model(0.5)) as server:
        await judge(targeted(tmp_path, server, 40), HERE)
        small = {json.dumps(body, sort_keys=True) for body in server.requests}
        await judge(targeted(tmp_path, server, 120), HERE)
        bodies = [json.dumps(body, sort_keys=True) for body in server.requests]
        assert len(bodies) == len(set(bodies)) > len(small)
        large = dataset(run_config(targeted(tmp_path, server, 120)))
        for target in (40, 120):
            config = targeted(tmp_path, server, target)
            assert (await judge(config, HERE))["preference"] == target
            stages = check_accounts(config)  # nothing of the larger draw is left in them
            assert stages["pairs"]["rows_out"] == target
            assert stages["prompts"]["rows_out"] == read_json(config.root / "target.json")["drawn"]
        assert server.calls == len(bodies) and dataset(config) == large


@pytest.mark.slow
async def test_prompts_that_run_out(tmp_path: Path) -> None:
    """The work fails with what is there; more prompts are all that is asked, a smaller target asks nothing."""
    async with wire_server(reply=model(0.1)) as server:
        with pytest.raises(TargetError) as error:
            await judge(targeted(tmp_path, server, 60), HERE)
        assert "only 40 of 60 pairs; all 400 prompts are used up" in str(error.value)
        assert error.value.exit_code == 1
        asked = server.calls
        assert (await judge(targeted(tmp_path, server, 40), HERE))["preference"] == 40
        assert server.calls == asked
        assert (await judge(targeted(tmp_path, server, 60, prompts=800), HERE))["preference"] == 60
        per_prompt = 2 + 2 + 2 * 2
        # the last slice was a part of one, and is asked about the prompts that it gained
        assert asked < server.calls <= asked + (3 * SLICE + SLICE) * per_prompt


@pytest.mark.slow
async def test_no_pair_at_all(tmp_path: Path) -> None:
    """All prompts are tried before the work fails."""
    async with wire_server(reply=model(0.0)) as server:
        with pytest.raises(TargetError, match="only 0 of 5 pairs; all 400 prompts"):
            await judge(targeted(tmp_path, server, 5), HERE)


@pytest.mark.parametrize(
    "kind",
    [
        {"judge": {"jury": ["toy", "x"], "threshold": 0.6}},
        {"judge": {"cascade": ["toy", "x"], "threshold": 0.6}},
    ],
)
async def test_several_judges(kind: dict[str, Any], tmp_path: Path) -> None:
    """What a jury or a cascade adds up to is what counts."""
    async with wire_server(reply=model(0.5), models=("toy", "x")) as server:
        config = targeted(tmp_path, server, 30, two=True, **kind)
        assert (await judge(config, HERE))["preference"] == 30
        before = server.calls
        assert (await judge(config, HERE))["preference"] == 30 and server.calls == before


@pytest.mark.slow
async def test_without_the_target_again(tmp_path: Path) -> None:
    """A folder that had a target takes all prompts once the target is gone, in the config's own shards."""
    async with wire_server(reply=model(1.0)) as server:
        await judge(targeted(tmp_path, server, 150), HERE)
        config = targeted(tmp_path, server, None, shards=2)
        assert (await judge(config, HERE))["preference"] == PROMPTS
        stages = check_accounts(config)
        assert {stage["shards"] for stage in stages.values()} == {2} and stages["prompts"][
            "rows_out"
        ] == PROMPTS


@pytest.mark.slow
async def test_a_plan_says_what_it_counts_for(tmp_path: Path) -> None:
    """Before the run the fewest prompts that can do, after it those that did, with nothing left to ask."""
    async with wire_server(reply=model(0.5)) as server:
        config = targeted(tmp_path, server, 60)
        fresh = await asyncio.to_thread(make_plan, config)
        assert fresh.assumed is not None and "counted for 64 prompts, the fewest that can" in fresh.assumed
        await judge(config, HERE)
        drawn = read_json(config.root / "target.json")["drawn"]
        done = await asyncio.to_thread(make_plan, config)
        assert (done.calls.high, done.dataset) == (0, "unchanged")
        assert (
            done.assumed is not None and f"for {drawn} prompts, as many as the run has drawn" in done.assumed
        )
        more = await asyncio.to_thread(make_plan, targeted(tmp_path, server, 120))
        asked = server.calls
        await judge(targeted(tmp_path, server, 120), HERE)
    assert more.assumed is not None and "pairs a prompt that the run has got so far" in more.assumed
    assert more.calls.low <= server.calls - asked + SLICE * 8 and more.dataset == "open"


async def test_status_says_what_was_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts that were not drawn, and pairs that were left out, are counted."""
    async with wire_server(reply=model(1.0)) as server:
        config = targeted(tmp_path, server, 50)
        await judge(config, HERE)
    print_status(run_status(config.root), Console(width=200))
    said = "50 pairs reached: drawn 64 of 400 prompts; 14 accepted pairs beyond the target left out"
    assert said in capsys.readouterr().out


@pytest.mark.slow
async def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """Nothing that was answered is asked again, and the dataset is that of a run that was never stopped."""
    (tmp_path / "whole").mkdir()
    async with wire_server(reply=model(0.3)) as server:
        whole = targeted(tmp_path / "whole", server, 50)
        await judge(whole, HERE)
        needed = server.calls

    def faults(number: int) -> Fault | None:
        return Fault(status=404) if number >= needed // 2 and not healed else None

    healed = False
    async with wire_server(reply=model(0.3), faults=faults) as server:
        config = targeted(tmp_path, server, 50)
        with pytest.raises(ProviderError):
            await judge(config, HERE)
        wasted = server.calls - needed // 2
        healed = True
        await judge(config, HERE)
        assert dataset(config) == dataset(whole)
        assert server.calls <= needed + wasted + config.models["toy"].max_concurrency


@pytest.mark.slow
async def test_a_whole_run_with_a_judge_to_be_measured(tmp_path: Path) -> None:
    """The judge is measured first, held-out prompts are never drawn, and the run ends with its evaluation."""
    pairs = [
        {"id": f"l{n}", "prompt": f"Tell me about {n}.", "a": f"{'ab'[n % 2]} says", "b": f"{'ba'[n % 2]} says",
         "gold": "BA"[n % 2]}
        for n in range(40)
    ]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    held = [{"id": f"h{n}", "prompt": f"Tell me about {n}.", "tags": ["helpful"]} for n in range(10)]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    judged = {"model": "toy", "require_qualification": True, "labelled": str(tmp_path / "pairs.jsonl")}
    async with wire_server(reply=model(1.0)) as server:
        config = targeted(
            tmp_path, server, 70, judge=judged,
            evaluate={"grader": "judge", "sources": [{"path": str(tmp_path / "held.jsonl")}]},
        )  # fmt: skip
        status = await pipeline(config, HERE)
        calls = server.calls
        again = await pipeline(config, HERE)
        assert server.calls == calls and again["stages"] == status["stages"]
    assert status["state"] == "finished" and status["dataset"]["preference"] == 70
    assert status["qualification"]["qualified"] and status["evaluation"]["base"]["helpful"]["n"] == 10
    assert status["stages"]["prompts"]["drops"]["held_out"] == 10
    assert (status["target"]["prompt"], status["target"]["prompts"]) == ("p79", PROMPTS - 10)
    assert status["config"]["shards"] == 2
