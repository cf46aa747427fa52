"""Juries and cascades in a run: each judge is asked what it must be, and what they add up to is published."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cai.conduct.dataset import combine
from cai.conduct.stages import groups, run_stages
from cai.conduct.work import HERE
from cai.config import RunConfig
from cai.judge.label import JudgeRule, Label, pool
from cai.judges.stages import judge_stages
from cai.pipeline import read_stage
from cai.report.status import run_status
from cai.report.tables import judges_table
from cai.rows import Drop, Judgment, Pair
from cai.store import read_rows
from tests.conduct.here import judge
from tests.flows.small import obliging, published, small_config, small_run
from tests.wire import Answer, Fault, Json, Wire, wire_server

pytestmark = pytest.mark.anyio
NAMES = ("toy", "x", "y")
SECTION = {"principles": 2, "threshold": 0.6}


def same_for_5(body: Json) -> Answer:
    """Like `obliging`, but prompt 5 always gets the same reply, so that its samples need no judge."""
    return Answer("The same.") if "about 5 {" in body["messages"][-1]["content"] else obliging(body)


def judged_run(folder: Path, server: Wire, judge: dict[str, Any], **changes: Any) -> RunConfig:
    """The small run with these judges; y has a price, x costs a tenth of it."""
    folder.mkdir(exist_ok=True)
    models = {
        name: {
            "backend": "vllm",
            "model": name,
            "endpoint": server.openai_url,
            "max_concurrency": 8,
            "price": {"input": price, "output": price},
        }
        for name, price in zip(NAMES, (0, 100, 1000), strict=True)
    }
    return small_run(folder, server.openai_url, models=models, judge={**SECTION, **judge}, **changes)


def calls_to(server: Wire, name: str) -> int:
    """How often the server was asked for this model."""
    return sum(body["model"] == name for body in server.requests)


def read(config: RunConfig, stage: str) -> dict[str, Judgment]:
    return {row.id: row for row in read_stage(config, stage, Judgment)}


def dropped(config: RunConfig, stage: str) -> dict[str, str]:
    """Reason of each drop of a stage, by row."""
    files = (config.root / stage).glob("drops-*.jsonl")
    return {drop.id: drop.reason for file in files for drop in read_rows(file, Drop)}


def check_accounting(config: RunConfig, *members: str) -> None:
    """In every stage, rows in = rows out + drops; the joint stage has as many rows as there are comparisons."""
    stages = run_status(config.root)["stages"]
    for stage in (*members, "judge", "pairs", "demonstrations"):
        found = stages[stage]
        assert found["rows_in"] == found["rows_out"] + sum(found["drops"].values()) > 0
    assert stages["judge"]["rows_in"] == stages[members[0]]["rows_in"]
    assert stages["judge"]["calls"] == 0
    assert stages["pairs"]["rows_in"] == stages["judge"]["rows_out"]


async def test_a_jury_is_pooled_and_keeps_all_verdicts(tmp_path: Path) -> None:
    """Every member judges everything; a comparison that one lost is heard from the other; nothing is asked twice."""
    lost: set[str] = set()

    def faults(number: int) -> Fault | None:
        body = server.requests[number]
        if body["model"] != "y" or "about 7 {" not in str(body["messages"]):
            return None
        lost.add("p7")
        return Fault(status=400)

    async with wire_server(reply=same_for_5, faults=faults, models=NAMES) as server:
        config = judged_run(tmp_path, server, {"jury": ["x", "y"]})
        await judge(config)
        first, calls = published(config.root), server.calls
        await judge(config)
        shutil.rmtree(config.root / "judge")
        await judge(config)
        assert server.calls == calls
        assert published(config.root) == first
    check_accounting(config, "judge-x", "judge-y")
    x, y, both = (read(config, stage) for stage in ("judge-x", "judge-y", "judge"))
    assert lost == {"p7"} and 0 < len(x) - len(y) == len(set(x) - set(y))
    assert list(both) == list(x)
    for name, found in both.items():
        members = [one[name] for one in (x, y) if name in one]
        labels = [Label(one.p, one.state, one.p_raw) for one in members]
        assert (found.p, found.state, found.p_raw) == pool(labels, JudgeRule(0.6))
        assert found.verdicts == tuple(verdict for one in members for verdict in one.verdicts)
    assert {one.state for one in both.values()} > {"labelled"}
    for stage in ("judge-x", "judge"):
        assert dropped(config, stage) == {"p5/r0~p5/r1": "identical"}
    used = run_status(config.root)["judges"]["judge"]
    assert used["kind"] == "jury" and used["saving"] is None
    assert used["compared"] == len(x) and used["calls"] == sum(one["calls"] for one in used["judges"])
    for member, rows in zip(used["judges"], (x, y), strict=True):
        assert member["labelled"] == sum(one.state == "labelled" for one in rows.values()) > 0
    assert used["labelled"] == sum(one.state == "labelled" for one in both.values())


async def test_a_clamp_is_applied_to_the_dataset_alone(tmp_path: Path) -> None:
    """Setting it asks nothing and judges nothing again; the same pairs come out with a p up to it."""

    def kept() -> dict[str, float]:
        return {pair.id: pair.p or 0.0 for pair in read_stage(config, "pairs", Pair)}

    async with wire_server(reply=obliging, models=NAMES) as server:
        config = judged_run(tmp_path, server, {"jury": ["x", "y"]})
        await judge(config)
        free, calls, rows = kept(), server.calls, published(config.root)
        judged = config.root / "judge-x" / "manifest-00000.json"
        before = judged.stat().st_mtime_ns
        await judge(config, ["judge.clamp=0.7"])
        assert server.calls == calls and judged.stat().st_mtime_ns == before
    assert max(free.values()) > 0.7 > min(free.values())
    assert kept() == {name: min(p, 0.7) for name, p in free.items()}
    again = published(config.root)
    assert {name for name in rows if rows[name] != again[name]} <= {
        *(f"pairs/rows-0000{shard}.jsonl" for shard in range(3)),
        "dataset/preference/train.jsonl",
    }
    assert "at most 0.7" in (config.root / "dataset" / "README.md").read_text()


async def test_a_cascade_asks_its_last_judge_only_what_is_left(tmp_path: Path) -> None:
    """Asked are exactly the unlabelled; saved is what that judge alone takes, call by call; again asks nothing."""
    async with wire_server(reply=same_for_5, models=NAMES) as server:
        config = judged_run(tmp_path / "both", server, {"cascade": ["x", "y"]})
        await judge(config)
        first, calls = published(config.root), server.calls
        made = {name: calls_to(server, name) for name in ("x", "y")}
        await judge(config)
        assert server.calls == calls and published(config.root) == first
    async with wire_server(reply=same_for_5, models=NAMES) as alone:
        single = judged_run(tmp_path / "alone", alone, {"model": "y"})
        await judge(single)
    check_accounting(config, "judge-x", "judge-y")
    x, y, both = (read(config, stage) for stage in ("judge-x", "judge-y", "judge"))
    left = [name for name, row in x.items() if row.state != "labelled"]
    assert list(y) == left and 0 < len(left) < len(x)
    assert "identical" not in dropped(config, "judge-y").values()
    for name, found in both.items():
        last = y.get(name, x[name])
        assert (found.p, found.state) == (last.p, last.state)
        assert found.verdicts == x[name].verdicts + (y[name].verdicts if name in y else ())

    status = run_status(config.root)
    used = status["judges"]["judge"]
    assert {one["judge"]: one["calls"] for one in used["judges"]} == made
    assert [one["asked"] for one in used["judges"]] == [len(x), len(y)]
    saving = used["saving"]
    assert saving["escalated"] == len(left) and saving["escalated_share"] == len(left) / len(x)
    assert saving["all_calls"] == calls_to(alone, "y")
    assert saving["saved_calls"] == calls_to(alone, "y") - made["y"]
    assert saving["saved_share"] == pytest.approx(1 - made["y"] / calls_to(alone, "y"))
    paid = run_status(single.root)["stages"]["judge"]["cost"]
    assert saving["all_cost"] == pytest.approx(paid, rel=0.05)  # prompts differ in length
    assert saving["saved_cost"] == pytest.approx(saving["all_cost"] - used["cost"])
    assert used["cost"] == pytest.approx(sum(status["stages"][f"judge-{n}"]["cost"] for n in ("x", "y")))
    assert judges_table("judge", used).row_count == 2
    assert run_status(single.root)["judges"] == {}


async def test_a_cascade_goes_on_where_an_endpoint_fails(tmp_path: Path) -> None:
    """What the first judge lost is asked of the next; where that fails, an earlier judgment stands, unlabelled."""

    def faults(number: int) -> Fault | None:
        body = server.requests[number]
        text, name = str(body["messages"]), body["model"]
        failing = ("about 7 {", "about 8 {") if name == "x" else ("about 8 {", "about 9 {", "about 10 {")
        return Fault(status=400) if name != "toy" and any(part in text for part in failing) else None

    async with wire_server(reply=obliging, faults=faults, models=NAMES) as server:
        config = judged_run(tmp_path, server, {"cascade": ["x", "y"]})
        await judge(config)
    check_accounting(config, "judge-x", "judge-y")
    x, y, both = (read(config, stage) for stage in ("judge-x", "judge-y", "judge"))
    lost = [name for name, reason in dropped(config, "judge-x").items() if reason == "bad_request"]
    assert {name.split("/")[0] for name in lost} == {"p7", "p8"}
    for name in (name for name in lost if name.startswith("p7/")):
        assert both[name].verdicts == y[name].verdicts
    assert dropped(config, "judge") == {name: "bad_request" for name in lost if name.startswith("p8/")}
    stands = [name for name in dropped(config, "judge-y") if name.startswith(("p9/", "p10/"))]
    assert stands
    for name in stands:
        assert both[name] == x[name] and both[name].state != "labelled"


async def test_the_samples_of_the_paper_recipe_are_judged_by_all(tmp_path: Path) -> None:
    """`sft-judge` is made from `sft-judge-x` and `sft-judge-y`, over the samples of the SFT model alone."""
    async with wire_server(reply=obliging, models=NAMES) as server:
        config = judged_run(tmp_path, server, {"cascade": ["x", "y"]})
        await judge(config)
        (config.root / "generate").rename(config.root / "sft-generate")  # as though the SFT model had sampled
        paper = config.model_copy(update={"recipe": "paper"})
        await run_stages(paper, list(judge_stages(paper, "sft-judge")), HERE)
        await combine(paper, "sft-judge", HERE)
    found = run_status(config.root)
    assert list(found["stages"])[2:9] == [
        "judge-x", "judge-y", "judge", "sft-generate", "sft-judge-x", "sft-judge-y", "sft-judge"
    ]  # fmt: skip
    assert found["stages"]["sft-judge"]["rows_out"] == found["stages"]["sft-judge-x"]["rows_in"] == 24
    assert {row.b.kind for row in read(config, "sft-judge").values()} == {"reply"}
    assert 0 < found["judges"]["sft-judge"]["saving"]["escalated"] < 24


async def test_members_are_served_one_after_the_other(tmp_path: Path) -> None:
    """Managed judges never share a GPU; those at endpoints go along with whatever is served."""

    def grouped(*members: dict[str, Any]) -> list[list[str]]:
        names = ("toy", "x", "y")
        models = {n: {"backend": "vllm", "model": n, **m} for n, m in zip(names, members, strict=True)}
        config = small_run(tmp_path, "", models=models, judge={"jury": ["x", "y"]})
        return groups(config, ["generate", "revise", *judge_stages(config, "judge")])

    managed: dict[str, Any] = {"managed": {}}
    endpoint = {"endpoint": "http://127.0.0.1:9/v1"}
    assert grouped(managed, managed, managed) == [["generate", "revise"], ["judge-x"], ["judge-y"]]
    assert grouped(managed, endpoint, managed) == [["generate", "revise", "judge-x"], ["judge-y"]]
    assert grouped(endpoint, endpoint, endpoint) == [["generate", "revise", "judge-x", "judge-y"]]


@pytest.mark.parametrize(
    ("judges", "models", "message"),
    [
        ({"jury": ["x", "y"]}, {"y": "x"}, "judge.jury: 'x' and 'y' are one model (vllm x)"),
        ({"model": "../x"}, {"../x": "x"}, "models: '../x' cannot be part of a folder's name"),
    ],
)
async def test_judges_that_cannot_work_are_refused(
    tmp_path: Path, judges: dict[str, Any], models: dict[str, str], message: str
) -> None:
    """Exit 2 with one line before any call, and before a run's folder is made."""
    async with wire_server(reply=obliging, models=NAMES) as server:
        named = {"toy": "toy", "x": "x", "y": "y", **models}
        config = small_config(tmp_path, server.openai_url, judge=judges)
        config["models"] = {
            name: {"backend": "vllm", "model": model, "endpoint": server.openai_url}
            for name, model in named.items()
        }
        (tmp_path / "run.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "flows", "judge", str(tmp_path / "run.yaml")]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        assert process.returncode == 2
        assert message in errors.decode() and errors.count(b"\n") == 1
        assert server.calls == 0 and not (tmp_path / "outputs").exists()
