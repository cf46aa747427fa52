"""Steps of replies judged in a run, against the loopback server: the dataset, the states, what is asked and planned."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from datasets import List, Value, load_dataset
from rich.console import Console

from cai.conduct.work import checkpoint
from cai.config import RunConfig
from cai.config_file import override_config
from cai.constitution import load_constitution
from cai.embedded import MODEL_DIR
from cai.errors import ConfigError, ProviderError
from cai.export.versions import publish_version
from cai.pipeline import read_stage
from cai.plan.make import make_plan
from cai.plan.per_prompt import Shares, calls_a_prompt
from cai.preflight import check_inputs
from cai.report.status import run_status
from cai.report.summary import print_status
from cai.rows import JudgedSteps, Stepwise
from cai.train.plan import TrainPlan
from tests.conduct.here import judge, pipeline
from tests.conduct.test_rounds import ARGS, engines, rounds_run, trainings  # noqa: F401 - fixtures
from tests.flows.small import ROWS, obliging, published, small_run
from tests.wire import Answer, Fault, Json, Wire, wire_server

pytestmark = pytest.mark.anyio
SECTION = {"principles": 2, "threshold": 0.7}
CALLS = 2 * 2  # a step: principles and orders


def question(body: Json) -> str | None:
    """The step that a request asks about; None for any other request."""
    text = str(body["messages"][-1]["content"])
    return text.split(" step to check>\n")[1].split("\n</")[0] if "step to check>" in text else None


def stepping(body: Json) -> Answer:
    """Replies in up to four steps, and judges a step by its words, whichever letter means yes."""
    text = str(body["messages"][-1]["content"])
    if (step := question(body)) is not None:
        if "mute" in step:
            return Answer("I cannot tell.", finish="stop")
        sure = 0.55 if "unsure" in step else 0.05 if "wrong" in step else 0.95
        yes, no = ("A", "B") if "\nA: yes\n" in text else ("B", "A")
        probs = {yes: sure, no: 1 - sure}
        return Answer(max(probs, key=lambda letter: probs[letter]), probs)
    if "about" in text and "principle" in text and len(text) < 60:
        number = int("".join(c for c in text.split("about")[1][:4] if c.isdigit())) + body["seed"] % 2
        words = [
            ("right", "right", "right"),
            ("right", "wrong", "right"),
            ("right", "unsure", "wrong"),
            ("wrong",),
        ]
        return Answer("\n\n".join(f"{word} {number}.{n}" for n, word in enumerate(words[number % 4])))
    return obliging(body)


def stepped(body: Json) -> bool:
    return question(body) is not None


def run_of(folder: Path, server: Wire, **changes: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    return small_run(folder, server.openai_url, **{"stepwise": SECTION} | changes)


@pytest.mark.slow
async def test_the_part_of_the_dataset(tmp_path: Path) -> None:
    """In the columns that process reward models are trained on, with card, counts and lineage; asked once."""
    async with wire_server(reply=stepping) as server:
        config = run_of(tmp_path, server)
        planned = await asyncio.to_thread(make_plan, config)
        counts = await judge(config)
        asked = sum(map(stepped, server.requests))
        calls = server.calls
        assert (await pipeline(config))["dataset"] == counts and server.calls == calls
        again = await asyncio.to_thread(make_plan, config)
    found = load_dataset(
        str(config.root / "dataset"), "stepwise", split="train", cache_dir=str(tmp_path / "cache")
    )
    kinds = {"prompt": Value("string"), "completions": List(Value("string")), "labels": List(Value("bool"))}
    assert kinds.items() <= dict(found.features).items()
    rows = [Stepwise.model_validate(row) for row in found]
    assert (
        rows == list(read_stage(config, "stepwise", Stepwise)) and counts["stepwise"] == len(rows) > ROWS / 2
    )
    for row in rows:
        wrong = ["wrong" in step for step in row.completions]
        assert row.labels == tuple(not bad for bad in wrong) and wrong[:-1] == [False] * (len(wrong) - 1)
        assert all("unsure" not in step for step in row.completions)
        assert row.ended == ("bad" if wrong[-1] else "below_threshold" if len(wrong) == 1 else "last")
        assert len(row.principles) == 2 and row.lineage == row.id
    assert any(row.prompt.startswith("User: Hi.\n\nAssistant: Hello.") for row in rows)
    assert {row.ended for row in rows} == {"bad", "below_threshold", "last"}

    judged = list(read_stage(config, "steps", JudgedSteps))
    steps = sum(len(row.steps) for row in judged)
    assert asked == steps * CALLS, "every step, whatever the one before it was"
    status = run_status(config.root)
    assert status["stages"]["steps"]["calls"] == asked
    states = status["stepwise"]["states"]
    assert sum(states.values()) == steps and min(states.values()) > 0
    assert set(states) == {"good", "bad", "below_threshold"}
    print_status(status, Console(width=120, file=(said := io.StringIO())))
    assert f"{states['good']} good, {states['bad']} bad" in said.getvalue()
    assert f"{status['stepwise']['behind_end']} of them behind the end" in said.getvalue()
    card = (config.root / "dataset" / "README.md").read_text()
    assert "config_name: stepwise" in card and "stepwise supervision" in card and "| judge of steps |" in card

    changes = publish_version(config).dataset["stepwise"]
    assert changes.added == changes.after == len(rows)
    assert set(changes.groups) == {"principle", "bad steps"}

    before, after = ({stage.kind: stage.calls for stage in plan.stages} for plan in (planned, again))
    assert before["steps"].low <= asked <= before["steps"].high
    assert after["steps"].high == 0 and again.dataset == "unchanged"


@pytest.mark.slow
async def test_a_run_that_stops_goes_on(tmp_path: Path) -> None:
    """No step that was answered is asked again, and the rows are those of a run that never stopped."""
    whole = tmp_path / "whole"
    async with wire_server(reply=stepping) as server:
        config = run_of(whole, server)
        await judge(config)
        expected = published(config.root)
        total = server.calls
    async with wire_server(
        reply=stepping, faults=lambda call: Fault(status=401) if call == total - 50 else None
    ) as server:
        config = run_of(tmp_path / "cut", server)
        with pytest.raises(ProviderError):
            await judge(config)
        plan = await asyncio.to_thread(make_plan, config)
        left = {stage.kind: stage.calls for stage in plan.stages}["steps"]
        before = sum(map(stepped, server.requests))
        await judge(config)
        assert sum(map(stepped, server.requests)) - before == left.low == left.high > 0
    assert published(config.root) == expected


@pytest.mark.parametrize("method", ["stated", "samples"])
async def test_other_ways_to_a_verdict(method: str, tmp_path: Path) -> None:
    """A stated confidence, or a share of samples; neither order of the answers counts for more."""
    async with wire_server(reply=stepping) as server:
        section = {
            "model": "toy",
            "method": method,
            "samples": 3,
            "threshold": 0.6,
            "sampling": {"temperature": 1.0},
        }
        config = run_of(tmp_path, server, judge=section)
        await judge(config)
    rows = list(read_stage(config, "stepwise", Stepwise))
    assert rows and all(row.labels == tuple("wrong" not in step for step in row.completions) for row in rows)


async def test_steps_without_an_answer(tmp_path: Path) -> None:
    """Neither good nor bad: the row ends before them, they are counted, and long replies cost no call."""

    def mute(body: Json) -> Answer:
        if (
            question(body) is None
            and "principle" in str(body["messages"])
            and len(str(body["messages"])) < 250
        ):
            number = body["seed"] % 3
            return Answer(["right.\n\nmute.\n\nwrong.", "mute.", "\n\n".join("abcdefg")][number])
        return stepping(body)

    async with wire_server(reply=mute) as server:
        stated = {
            "toy": {"backend": "vllm", "model": "toy", "endpoint": server.openai_url, "logprobs": False}
        }
        config = run_of(tmp_path, server, models=stated, stepwise=SECTION | {"max_steps": 6})
        await judge(config)
    status = run_status(config.root)
    assert status["stages"]["steps"]["drops"] == {
        "too_many_steps": status["stages"]["steps"]["drops"]["too_many_steps"]
    }
    assert status["stepwise"]["states"]["unparsed"] > 0
    assert status["stages"]["stepwise"]["drops"]["unparsed"] > 0
    rows = list(read_stage(config, "stepwise", Stepwise))
    assert rows and all((row.completions, row.ended) == (("right.",), "unparsed") for row in rows)


@pytest.mark.slow
async def test_the_recipe_paper(
    tmp_path: Path,
    base: Path,
    engines: Wire,  # noqa: F811
    trainings: list[TrainPlan],  # noqa: F811
) -> None:
    """The steps are those of the SFT model's samples, judged beside its pairs, and planned before there is one."""
    async with wire_server(
        reply=stepping,
        models=["j", str(base), *(str(tmp_path / f"outputs/small/models/{m}") for m in ("sft", "dpo"))],
    ) as server:
        engines.url = server.url
        config = rounds_run(
            tmp_path, base, server, dpo={"args": ARGS}, evaluate=None, stepwise=SECTION | {"judge": "j"}
        )
        planned = await asyncio.to_thread(make_plan, config)
        status = await pipeline(config)
        steps = sum(map(stepped, server.requests))
    assert [plan.kind for plan in trainings] == ["sft", "dpo"]
    judged = list(read_stage(config, "steps", JudgedSteps))
    assert {row.reply.model for row in judged} == {str(checkpoint(config, "sft"))}
    assert status["dataset"]["stepwise"] > 0 and status["stages"]["steps"]["calls"] == steps
    (unknown,) = (stage for stage in planned.stages if stage.kind == "steps")
    assert unknown.calls.low == 0 and steps <= unknown.calls.high == 2 * ROWS * 32 * CALLS
    constitution = load_constitution(config.constitution)
    shares = Shares(1, 1, 1, 1, 1, "given")
    (each,) = (one for one in calls_a_prompt(config, constitution, shares) if one.kind == "steps")
    mean = sum(len(row.steps) for row in judged) / len(judged)
    assert each.model == "j" and each.each == pytest.approx(2 * mean * CALLS)


def test_the_embedded_model_has_no_wording(tmp_path: Path) -> None:
    """A folder of templates without `step.txt` is refused before the first call, by name."""
    config = small_run(tmp_path, "http://127.0.0.1:9/v1", stepwise={})
    check_inputs(config)
    with pytest.raises(ConfigError, match=r"stepwise: needs the template step\.txt, .*embedded model"):
        check_inputs(override_config(config, [f"templates={MODEL_DIR.parent / 'prompts'}"]))
