"""Rounds of DPO and self-play as whole runs: the loopback server stands for the engine, TRL trains for real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from cai.conduct.work import checkpoint
from cai.config import RunConfig
from cai.config_file import validate_config
from cai.export.dataset import part_file
from cai.pipeline import read_stage
from cai.plan.make import make_plan
from cai.plan.rows import Plan
from cai.report.status import run_status
from cai.report.summary import print_status
from cai.rounds import is_replayed
from cai.rows import Demonstration, Pair, Reply
from cai.store import read_rows
from cai.train.main import train
from cai.train.plan import PLAN, REPORT, TrainPlan
from tests.conduct.here import pipeline
from tests.flows.small import ROWS, obliging, published, small_config, write_inputs
from tests.wire import Answer, Json, Wire, asked_choices, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ARGS = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
HELD = ["Hold on?", "What now?"]


def consistent(body: Json) -> Answer:
    """As `obliging`, but the judge prefers the same one of two replies in both orders, and grades with yes."""
    choices = asked_choices(body)
    if choices != ["A", "B"]:
        return Answer("Yes", {"Yes": 0.8, "No": 0.2}) if choices else obliging(body)
    first, second = re.findall(r"reply [0-9a-f]{16}", body["messages"][-1]["content"])[-2:]
    return Answer("A", {"A": 0.9, "B": 0.1}) if first > second else Answer("B", {"A": 0.1, "B": 0.9})


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[TrainPlan]:
    """Trainings run in this process, which has imported TRL once; returns their plans, in order."""
    found: list[TrainPlan] = []

    def here(command: Sequence[str], **how: Any) -> int:
        file = next(Path(part) for part in command if part.endswith(PLAN))
        found.append(TrainPlan.model_validate(yaml.safe_load(file.read_text())))
        train(found[-1])
        how["on_poll"]()
        return 0

    monkeypatch.setattr("cai.train.launch.supervise", here)
    monkeypatch.setattr("cai.preflight.check_args", lambda sections: None)  # would import TRL in another one
    return found


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Where engines of ours answer: the server that a test sets the address of."""
    place = Wire()

    @contextlib.asynccontextmanager
    async def at_wire(*_: Any) -> AsyncIterator[str]:
        yield place.openai_url

    monkeypatch.setattr("cai.serving.managed_server", at_wire)
    return place


def rounds_run(folder: Path, base: Path, server: Wire, **changes: Any) -> RunConfig:
    """The recipe `paper` on a policy that an engine of ours serves, with a judge of its own."""
    write_inputs(folder)
    lines = (json.dumps({"prompt": text, "tags": ["helpful"]}) + "\n" for text in HELD)
    (folder / "held.jsonl").write_text("".join(lines))
    toy = {"backend": "vllm", "model": str(base), "managed": {}, "max_concurrency": 8}
    config = small_config(folder, server.openai_url) | {
        "recipe": "paper",
        "models": {"toy": toy, "j": {"backend": "vllm", "model": "j", "endpoint": server.openai_url}},
        "judge": {"model": "j", "threshold": 0.6},
        "sft": {"args": ARGS},
        "evaluate": {"grader": "judge", "sources": [{"path": str(folder / "held.jsonl")}]},
    }
    return validate_config(config | changes, "test")


def names(folder: Path, base: Path) -> list[str]:
    """What the judge, the base and the trained models are asked by."""
    models = folder / "outputs" / "small" / "models"
    return ["j", str(base), *(str(models / name) for name in ("sft", "dpo-1", "dpo"))]


def stage_of(config: RunConfig, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = run_status(config.root)["stages"][stage]
    return found


def sampled(server: Wire, config: RunConfig, model: str) -> int:
    """How many requests a trained model has had."""
    return sum(body["model"] == str(checkpoint(config, model)) for body in server.requests)


async def planned(config: RunConfig) -> Plan:
    return await asyncio.to_thread(make_plan, config)


async def test_two_rounds(tmp_path: Path, base: Path, engines: Wire, trainings: list[TrainPlan]) -> None:
    """The second round samples and starts from the first one's model, and learns from its pairs and replayed ones."""
    async with wire_server(reply=consistent, models=names(tmp_path, base)) as server:
        engines.url = server.url
        dpo = {"args": ARGS, "rounds": 2, "replay": 0.5, "soft_labels": True}
        config = rounds_run(tmp_path, base, server, dpo=dpo)
        plan = await planned(config)
        await pipeline(config)
        check_plan(plan, config)
        check_lineage(config, trainings)
        assert sampled(server, config, "dpo-1") == 2 * ROWS + len(HELD)
        check_replay(config)
        check_told(config)
        again = await planned(config)
        assert (again.calls.high, again.dataset) == (0, "unchanged")
        await check_one_more(config)
        await check_resumed(config, server, trainings)


def check_plan(plan: Plan, config: RunConfig) -> None:
    """No stage asked more than was planned for it, and none was forgotten."""
    high: Counter[str] = Counter()
    for stage in plan.stages:
        high[stage.stage] += stage.calls.high
    asked = {
        name: found["calls"] for name, found in run_status(config.root)["stages"].items() if found["calls"]
    }
    assert set(asked) == set(high)
    assert all(calls <= high[name] for name, calls in asked.items())


async def check_one_more(config: RunConfig) -> None:
    """A third round asks nothing of the two that are there, and may ask all of its own."""
    assert config.dpo is not None
    more = config.model_copy(update={"dpo": config.dpo.model_copy(update={"rounds": 3})})
    asks = {stage.stage: stage.calls.high for stage in (await planned(more)).stages if stage.calls.high}
    held = dict.fromkeys(
        (f"{what}-{name}" for what in ("evaluate", "grade") for name in ("dpo-2", "dpo")), len(HELD)
    )
    assert asks == {"dpo-2-generate": 2 * ROWS, "dpo-2-judge": 2 * ROWS, **held}


def check_lineage(config: RunConfig, trainings: list[TrainPlan]) -> None:
    """Each model started from the one before, which is its reference, on the part of its round; its card says so."""
    assert [Path(plan.out).name for plan in trainings] == ["sft", "dpo-1", "dpo"]
    starts = [plan.model for plan in trainings[1:]]
    assert starts == [str(checkpoint(config, "sft")), str(checkpoint(config, "dpo-1"))]
    parts = [part_file(config.root, part) for part in ("preference", "preference-2")]
    assert [plan.data for plan in trainings[1:]] == [str(part) for part in parts]
    assert all(plan.soft_labels is True for plan in trainings[1:])
    card = (checkpoint(config, "dpo") / "README.md").read_text()
    assert "2 of 2, on samples of `models/dpo-1`; base → sft → dpo-1 → dpo" in card
    assert "dataset/preference-2/train.jsonl" in card and "| dpo-1 |" in card
    report = run_status(config.root)["training"]["dpo"]
    assert (
        report["model_digest"] == json.loads((checkpoint(config, "dpo") / REPORT).read_text())["model_digest"]
    )


def check_replay(config: RunConfig) -> None:
    """Every earlier pair is replayed or counted as not drawn; ids are unique; the part is the one and the other."""
    own, early = (list(read_stage(config, stage, Pair)) for stage in ("dpo-1-pairs", "pairs"))
    drawn = [pair for pair in early if is_replayed(config.seed, pair.id, 2, 0.5)]
    part = list(read_rows(part_file(config.root, "preference-2"), Pair))
    assert own and 0 < len(drawn) < len(early)
    assert part == [*own, *drawn]
    assert stage_of(config, "dpo-1-replay")["drops"] == {"not_drawn": len(early) - len(drawn)}
    assert len({pair.id for pair in part}) == len(part) and all("@2/" in pair.id for pair in own)


def check_told(config: RunConfig) -> None:
    """Status, page, card and evaluation know the rounds."""
    status = run_status(config.root)
    first, second = status["rounds"]
    assert (first["sampled"], first["model"], second["sampled"], second["model"]) == (
        "sft",
        "dpo-1",
        "dpo-1",
        "dpo",
    )
    assert second["learned"] == status["dataset"]["preference-2"] == second["pairs"] + second["replayed"]
    assert second["calls"] == sum(
        stage_of(config, f"dpo-1-{what}")["calls"] for what in ("generate", "judge")
    )
    assert [name for name in status["evaluation"] if name in config.policies] == ["sft", "dpo-1", "dpo"]
    console = Console(record=True, width=160)
    print_status(status, console)
    assert "dpo-1 → dpo" in console.export_text()
    assert "Rounds of DPO" in (config.root / "report.html").read_text()
    assert "preference-2/train.jsonl" in (config.root / "dataset" / "README.md").read_text()


async def check_resumed(config: RunConfig, server: Wire, trainings: list[TrainPlan]) -> None:
    """What a kill in the second round takes comes back as it was, and nothing of the first is done again."""
    rows, calls = published(config.root), server.calls
    weights = (checkpoint(config, "dpo") / "model.safetensors").read_bytes()
    await pipeline(config)
    assert len(trainings) == 3 and server.calls == calls
    for lost in ("dpo-1-generate", "dpo-1-pairs", "dpo-1-replay", "dataset", "models/dpo"):
        shutil.rmtree(config.root / lost)
    (config.root / "dpo-1-judge" / "manifest-00001.json").unlink()
    lines = (config.root / "journal/dpo-1-generate/00001.jsonl").read_bytes().splitlines(keepends=True)
    (config.root / "journal/dpo-1-generate/00001.jsonl").write_bytes(b"".join(lines[:-2]) + lines[-2][:20])
    await pipeline(config)
    assert 0 < server.calls - calls <= 2
    assert [Path(plan.out).name for plan in trainings[3:]] == ["dpo"]
    assert published(config.root) == rows
    assert (checkpoint(config, "dpo") / "model.safetensors").read_bytes() == weights


async def test_self_play(
    tmp_path: Path,
    base: Path,
    engines: Wire,
    trainings: list[TrainPlan],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Demonstrations against samples of the policy so far; nobody judges, and only their prompts are asked."""
    async with wire_server(reply=consistent, models=names(tmp_path, base)) as server:
        engines.url = server.url
        config = rounds_run(
            tmp_path, base, server, dpo={"args": ARGS, "self_play": True, "rounds": 2}, evaluate=None
        )
        plan = await planned(config)
        await pipeline(config)
        check_plan(plan, config)
        calls = server.calls
        assert len(re.findall(r"speed: [\d,]+ tokens/s, peak memory", capsys.readouterr().err)) == len(
            trainings
        )
        assert (await planned(config)).calls.high == 0
        await pipeline(config)
        assert server.calls == calls and "speed:" not in capsys.readouterr().err
    demonstrations = {
        row.lineage.split("/")[0]: row for row in read_stage(config, "demonstrations", Demonstration)
    }
    assert 0 < len(demonstrations) < ROWS
    assert [Path(plan.model).name for plan in trainings[1:]] == ["sft", "dpo-1"]
    for pairs, samples, part in (("pairs", "sft", "preference"), ("dpo-1-pairs", "dpo-1", "preference-2")):
        replies = {row.id: row for row in read_stage(config, f"{samples}-generate", Reply)}
        assert len(replies) == 2 * len(demonstrations) == sampled(server, config, samples)
        found = list(read_rows(part_file(config.root, part), Pair))
        assert len(found) + sum(stage_of(config, pairs)["drops"].values()) == len(replies)
        for pair in found:
            better, worse = pair.id.split("~")
            assert pair.chosen == demonstrations[better.split("/")[0]].completion
            assert pair.rejected[0].content == replies[worse].text
            assert (pair.p, pair.margin, pair.source) == (None, None, "demonstration")
    assert not any((config.root / name).exists() for name in ("sft-judge", "dpo-1-judge"))
    assert "nobody: self-play" in (checkpoint(config, "dpo") / "README.md").read_text()
