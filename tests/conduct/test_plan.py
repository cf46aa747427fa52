"""What a plan says would be asked, against what the run then asks of the loopback server."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cai.config import RunConfig
from cai.config_file import validate_config
from cai.pipeline import read_stage
from cai.plan.make import make_plan
from cai.plan.rows import Plan
from cai.rows import Judgment, Revision
from cai.store.lock import held
from tests.conduct.here import judge, pipeline
from tests.flows.small import CONSTITUTION, ROWS, obliging, small_run
from tests.wire import Answer, Json, Wire, asked_choices, wire_server

pytestmark = pytest.mark.anyio
Reply = Callable[[Json], Answer]


def steady(body: Json) -> Answer:
    """A model that is blind to principles: what it says depends on what the user asked, and on the seed of a reply."""
    text = body["messages"][-1]["content"]
    number = int("".join(c for c in text.split("about")[1][:4] if c.isdigit())) if "about" in text else 0
    if asked_choices(body):
        return Answer("A", {"A": 0.9, "B": 0.1})
    if "VERDICT" in text:
        return Answer(f"Seen.\nVERDICT: {'breaks' if number % 3 else 'keeps'}")
    return Answer(f"About {number}, {body['seed'] % 97 if len(text) < 60 else 'revised'}.")


async def planned(config: RunConfig) -> Plan:
    """The plan, from beside the loop that the server runs in."""
    return await asyncio.to_thread(make_plan, config)


def kind(body: Json) -> str:
    """Which kind of call a request is."""
    if asked_choices(body):
        return "judge"
    text = body["messages"][-1]["content"]
    return "critique" if "VERDICT" in text else "revision" if "critique" in text.lower() else "generate"


async def made(server: Wire, config: RunConfig) -> Counter[str]:
    """Run, and count what was asked by kind."""
    before = len(server.requests)
    await judge(config)
    return Counter(kind(body) for body in server.requests[before:])


def spans(plan: Plan) -> dict[str, tuple[int, int]]:
    return {stage.kind: (stage.calls.low, stage.calls.high) for stage in plan.stages}


def reword(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def edited(config: RunConfig, edit: Callable[[str], str]) -> RunConfig:
    """The config, after its constitution was edited in place."""
    path = Path(config.constitution)
    path.write_text(edit(path.read_text()))
    return config


EDITS: dict[str, Callable[[str], str]] = {
    "reworded": lambda text: reword(text, "Be honest.", "Be very honest."),
    "critique reworded": lambda text: reword(
        text, "statement: Be honest.", "statement: Be honest., critique: Is it honest?"
    ),
    "added": lambda text: text + "  - {id: calm, statement: Be calm.}\n",
    "removed": lambda text: reword(text, "  - {id: kind, statement: Be kind.}\n", ""),
    "renamed": lambda text: reword(text, "id: kind", "id: kindly"),
    "reweighted": lambda text: reword(text, "weight: 2", "weight: 5"),
    "retagged": lambda text: reword(
        text, "statement: Be honest.", "statement: Be honest., applies_to: [other]"
    ),
}
HARMLESS: dict[str, Callable[[str], str]] = {
    "comment": lambda text: "# Read me.\n" + text.replace("  - {id: kind", "  # why\n  - {id: kind"),
    "described": lambda text: text + "description: Three of them.\n",
    "reordered": lambda text: (
        text[: text.index("  -")] + "".join(sorted(text.splitlines(True)[4:], reverse=True))
    ),
    "tests": lambda text: reword(
        text, "Be kind.}", 'Be kind., tests: [{prompt: "Hi?", better: Hello., worse: Go.}]}'
    ),
}


async def test_a_fresh_plan_leaves_nothing_behind_and_bounds_the_run(tmp_path: Path) -> None:
    """Replies are counted exactly, what follows from them at most; a finished run has nothing left to ask."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        plan = await planned(config)
        assert server.calls == 0 and not config.root.exists()
        assert spans(plan)["generate"] == (2 * ROWS, 2 * ROWS) and plan.dataset == "open"
        assert all(stage.prompt_tokens and stage.completion_tokens for stage in plan.stages)
        counts = await made(server, config)
        assert counts["generate"] == 2 * ROWS
        for name, (low, high) in spans(plan).items():
            assert low <= counts[name] <= high, name
        files = sorted(config.root.rglob("*"))
        again = await planned(config)
        assert (again.calls.high, again.held, again.dataset) == (0, counts.total(), "unchanged")
        assert sorted(config.root.rglob("*")) == files


@pytest.mark.slow
@pytest.mark.parametrize("edit", [*EDITS])
async def test_an_edit_asks_what_was_said(edit: str, tmp_path: Path) -> None:
    """The rows that are asked again are named exactly, the calls are within bounds, and only critics and judges are."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config)
        before = {row.id: row for row in read_stage(config, "revise", Revision)}
        plan = await planned(edited(config, EDITS[edit]))
        counts = await made(server, config)
        assert counts["generate"] == 0 < counts["critique"] < ROWS
        for name, (low, high) in spans(plan).items():
            assert low <= counts[name] <= high, name
        asked = {
            row.reply.id
            for row in read_stage(config, "revise", Revision)
            if {call for done in row.rounds for call in done.calls}
            - {call for done in before[row.id].rounds for call in done.calls}
        }
        (critique,) = (stage for stage in plan.stages if stage.kind == "critique")
        assert set(critique.asked) >= asked and len(critique.asked) - len(asked) <= critique.calls.low
        assert (await planned(config)).calls.high == 0


async def test_where_a_model_says_the_same_again_the_expected_calls_are_the_calls(tmp_path: Path) -> None:
    """A reworded principle, by a model that is not moved by it: every kind of call to the last one."""
    async with wire_server(reply=steady) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config)
        plan = await planned(edited(config, EDITS["reworded"]))
        counts = await made(server, config)
        expected = {stage.kind: stage.calls.expected for stage in plan.stages}
        assert expected == {"generate": 0} | {k: counts[k] for k in ("critique", "revision", "judge")}
        assert counts["critique"] and counts["revision"] and counts["judge"]


async def test_a_judge_wording_is_known_to_the_call(tmp_path: Path) -> None:
    """No reply stands in between: least and most are the same, and the rows are those whose verdicts are new."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config)
        old = {row.id: row for row in read_stage(config, "judge", Judgment)}
        plan = await planned(
            edited(config, lambda text: reword(text, "Be kind.", "Be kind., judge: Kinder?"))
        )
        counts = await made(server, config)
        (stage,) = (stage for stage in plan.stages if stage.calls.high)
        assert (stage.kind, stage.calls.low, stage.calls.high) == ("judge", counts["judge"], counts.total())
        new = list(read_stage(config, "judge", Judgment))
        moved = {
            row.id
            for row in new
            if [v.calls for v in row.verdicts] != [v.calls for v in old[row.id].verdicts]
        }
        assert set(stage.asked) == moved


@pytest.mark.slow
@pytest.mark.parametrize("edit", [*HARMLESS])
async def test_what_no_model_reads_asks_nothing(edit: str, tmp_path: Path) -> None:
    """Comments, descriptions, the order and the tests of principles cost no call, and the plan knows."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config)
        assert (await planned(edited(config, HARMLESS[edit]))).calls.high == 0
        assert not await made(server, config)


async def test_going_back_is_free(tmp_path: Path) -> None:
    """The journal still has what the version before was told."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config)
        await judge(edited(config, EDITS["reworded"]))
        assert (await planned(edited(config, lambda _: CONSTITUTION))).calls.high == 0
        assert not await made(server, config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"judge": {"jury": ["toy", "x"], "principles": 2, "threshold": 0.6}},
        {"judge": {"cascade": ["toy", "x"], "principles": 2, "threshold": 0.9}},
        {"judge": {"model": "toy", "reasoning": True, "threshold": 0.6, "sampling": {"max_tokens": 64}}},
        {"judge": {"model": "toy", "method": "samples", "samples": 3, "sampling": {"temperature": 1.0}}},
        {"policy": {"model": "toy", "n": 3, "sampling": {"max_tokens": 32}}},
        {"critic": {"model": "toy", "rounds": 3, "stop_when_clean": False, "sampling": {"max_tokens": 64}}},
    ],
    ids=["jury", "cascade", "reasoning", "samples", "n", "rounds"],
)
async def test_every_way_of_asking_is_bounded(changes: dict[str, Any], tmp_path: Path) -> None:
    """From nothing, after a finished run of the plain config, and after an edit."""
    async with wire_server(reply=obliging, models=("toy", "x")) as server:
        plain = small_run(tmp_path, server.openai_url)
        x = plain.models["toy"].model_copy(update={"model": "x"})
        config = plain.model_copy(update={"models": {**plain.models, "x": x}})
        config = validate_config(config.model_dump(mode="json") | changes, "test")
        fresh = await planned(config)
        await judge(plain)
        for plan in (await planned(config), await planned(edited(config, EDITS["reworded"]))):
            assert plan.calls.high > 0
        calls = (await made(server, config)).total()
        assert plan.calls.low <= calls <= plan.calls.high <= fresh.calls.high
        assert (await planned(config)).calls.high == 0


async def test_a_plan_is_made_beside_a_running_and_of_a_killed_run(tmp_path: Path) -> None:
    """It takes no lock and cuts nothing off: what a torn journal lacks is what is asked."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url, shards=1)
        await judge(config)
        journal = config.root / "journal" / "generate" / "00000.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:-5]) + lines[-1][:-20])
        (config.root / "generate" / "manifest-00000.json").unlink()
        torn = journal.read_bytes()
        with held(config.root / "run.lock", "the run"), held(journal.with_suffix(".lock"), "the journal"):
            plan = await planned(config)
        assert journal.read_bytes() == torn
        assert spans(plan)["generate"] == (5, 5)
        assert (await made(server, config))["generate"] == 5


async def test_new_prompts_cost_only_themselves(tmp_path: Path) -> None:
    """Prompts that are appended are asked, the others are not."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await judge(config)
        with (tmp_path / "prompts.jsonl").open("a") as file:
            for number in range(3):
                file.write(json.dumps({"id": f"new{number}", "prompt": f"News about {number}?"}) + "\n")
        plan = await planned(config)
        counts = await made(server, config)
        assert spans(plan)["generate"] == (6, 6) and counts["generate"] == 6
        for name, (low, high) in spans(plan).items():
            assert low <= counts[name] <= high <= 40, name


async def test_a_pipeline_plan_has_the_evaluation(tmp_path: Path) -> None:
    """Held-out prompts are asked of the base model, and their grades follow where the judge grades."""
    async with wire_server(reply=obliging) as server:
        (tmp_path / "held.jsonl").write_text(
            "".join(
                json.dumps({"id": f"h{n}", "prompt": f"Hold {n}?", "tags": ["helpful"]}) + "\n"
                for n in range(4)
            )
        )
        evaluate = {"sources": [{"path": str(tmp_path / "held.jsonl")}], "grader": "judge"}
        config = validate_config(
            small_run(tmp_path, server.openai_url).model_dump(mode="json") | {"evaluate": evaluate}, "test"
        )
        plan = await planned(config)
        assert spans(plan)["evaluate-base"] == (4, 4) and spans(plan)["grade-base"] == (0, 4)
        await pipeline(config)
        assert (await planned(config)).calls.high == 0
