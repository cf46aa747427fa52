"""Judges on labelled pairs, live: the decision, the gate in a run, calibrations made, applied and refused."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cai.config import RunConfig
from cai.errors import ConfigError, JudgeError
from cai.pipeline import read_stage
from cai.rows import Judgment
from tests.conduct.here import calibrate, pipeline, qualify
from tests.flows.small import obliging, small_config, small_run, write_inputs
from tests.test_judge_replay import FIELDS, figures
from tests.wire import Answer, Json, asked_choices, wire_server

pytestmark = pytest.mark.anyio
PAIRS = 40


def knowing(sure: float, bias: float = 0.0) -> Callable[[Json], Answer]:
    """A judge that finds the reply with the word `fine` better, `sure` of it, and adds `bias` to P(A)."""

    def reply(body: Json) -> Answer:
        if not asked_choices(body):
            return obliging(body)
        text = body["messages"][-1]["content"]
        first = re.search(r"reply A>\n(.*?)\n</", text, re.S)
        assert first is not None
        if "fine" not in text:
            return obliging(body)
        doubt = int(re.findall(r"\d+", text)[-1]) % 7 / 100  # pairs differ in how sure the judge is
        p = (sure - doubt if "fine" in first[1] else 1 - sure + doubt) + bias
        return Answer("A" if p > 0.5 else "B", {"A": p, "B": 1 - p})

    return reply


def labelled(folder: Path, **changes: Any) -> str:
    """Labelled pairs, the better reply on both sides in turn; one in ten is labelled the wrong way round."""
    rows = []
    for index in range(PAIRS):
        better, worse = f"fine {index}", f"poor {index}"
        first = index % 2 == 0
        gold = "A" if first != (index % 10 == 3) else "B"
        a, b = (better, worse) if first else (worse, better)
        rows.append({"id": f"l{index}", "prompt": f"Q {index}", "a": a, "b": b, "gold": gold} | changes)
    path = folder / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_of(folder: Path, endpoint: str, **judge: Any) -> RunConfig:
    """The small run with another judge section."""
    return small_run(folder, endpoint, judge={"model": "toy", "principles": 2, "threshold": 0.6} | judge)


async def test_a_judge_is_qualified_on_a_file(tmp_path: Path) -> None:
    """Both orders of every pair and principle are asked once; figures and decision are on disk, and replayable."""
    async with wire_server(reply=knowing(0.9)) as server:
        config = run_of(tmp_path, server.openai_url, labelled=labelled(tmp_path))
        found = await qualify(config)
        assert server.calls == PAIRS * 2 * 2
        assert await qualify(config) == found
        assert server.calls == PAIRS * 2 * 2
    assert (found["rows"], found["scored"], found["accuracy"], found["agreement"]) == (40, 40, 0.9, 1.0)
    assert found["qualified"] is True and found["dropped"] == {"toy": {}}
    assert json.loads((config.root / "qualification.json").read_bytes()) == found
    again = figures(config.root / "qualify-toy" / "rows-00000.jsonl")
    assert {name: again[name] for name in FIELDS} == {name: found[name] for name in FIELDS} | {
        "threshold": 0.7
    }


async def test_pairs_are_judged_under_the_principle_that_they_name(tmp_path: Path) -> None:
    """By id of the constitution or by a statement of their own; then one principle a pair, whatever the config says."""
    async with wire_server(reply=knowing(0.9)) as server:
        for principle, text in (("honest", "Be honest."), ("Be swift.", "Be swift.")):
            before = len(server.requests)
            folder = tmp_path / text
            folder.mkdir()
            await qualify(run_of(folder, server.openai_url, labelled=labelled(folder, principle=principle)))
            asked = [body["messages"][-1]["content"] for body in server.requests[before:]]
            assert len(asked) == PAIRS * 2 and all(f"Principle: {text}" in prompt for prompt in asked)


async def test_the_constitutions_own_tests_will_do(tmp_path: Path) -> None:
    """Without a file the tests in the constitution are the labelled pairs; without either there is an error."""
    async with wire_server(reply=knowing(0.9)) as server:
        config = run_of(tmp_path, server.openai_url)
        with pytest.raises(ConfigError, match=r"small.yaml: no principle has tests; .*judge.labelled"):
            await qualify(config)
        document = yaml.safe_load((tmp_path / "small.yaml").read_text())
        tests = [{"prompt": f"Q {i}", "better": f"fine {i}", "worse": f"poor {i}"} for i in range(12)]
        document["principles"][0]["tests"] = tests
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(document))
        found = await qualify(config)
    assert (found["rows"], found["accuracy"]) == (12, 1.0)
    assert any("only 12 scored pairs" in reason for reason in found["reasons"])


async def test_an_unqualified_judge_labels_nothing(tmp_path: Path) -> None:
    """A run that requires qualification stops with the reason before the judge stage, again when resumed."""
    async with wire_server(reply=knowing(0.1)) as server:
        config = run_of(tmp_path, server.openai_url, labelled=labelled(tmp_path), require_qualification=True)
        for _ in range(2):
            with pytest.raises(
                JudgeError, match=r"models.toy is refused and labels nothing: .*wrong when both orders agree"
            ):
                await pipeline(config)
            assert not (config.root / "judge").exists()


async def test_a_qualified_judge_labels(tmp_path: Path) -> None:
    """The same run with a good judge goes through, and asks the labelled pairs once more than without the gate."""
    async with wire_server(reply=knowing(0.9)) as server:
        config = run_of(tmp_path, server.openai_url, labelled=labelled(tmp_path), require_qualification=True)
        status = await pipeline(config)
        assert status["stages"]["judge"]["rows_out"] > 0
        assert status["stages"]["qualify-toy"]["rows_out"] == PAIRS
        assert server.calls == sum(stage["calls"] for stage in status["stages"].values())


async def test_a_calibration_is_applied_in_a_run(tmp_path: Path) -> None:
    """Judgments carry the calibrated and the raw p; verdicts stay as they were, and nothing is asked again."""
    async with wire_server(reply=knowing(0.97)) as server:
        plain = run_of(tmp_path, server.openai_url, labelled=labelled(tmp_path))
        await pipeline(plain)
        out = tmp_path / "calibration.json"
        found = await calibrate(plain, str(out), "platt")
        assert found["calibration"] == "platt" and found["ece_calibrated"] is not None
        calls = server.calls
        before = {row.id: row for row in read_stage(plain, "judge", Judgment)}
        config = run_of(tmp_path, server.openai_url, calibration=str(out), require_qualification=True)
        await pipeline(config)
        assert server.calls == calls
    after = list(read_stage(config, "judge", Judgment))
    assert [row.id for row in after] == list(before)
    changed = 0
    for row in after:
        assert row.verdicts == before[row.id].verdicts and row.p_raw == before[row.id].p_raw
        changed += row.p != row.p_raw
    assert changed > len(after) / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sampling": {"temperature": 0.5}},
            r"calibration.json: made for the single judge \['vllm:toy@\w+'\], not",
        ),
        ({"method": "samples", "sampling": {"temperature": 1.0}}, r"not for the single judge"),
        ({"principles": 1}, r"calibrated with 2 principle\(s\) a pair, judge.principles is 1; set"),
        (
            {"target_accuracy": 0.99},
            r"judge.target_accuracy: 0.99 cannot be promised at risk 0.1 on the 40 pairs",
        ),
        ({"calibration": "nowhere.json"}, r"nowhere.json: No such file"),
        ({"model": None, "jury": ["toy", "other"]}, r"made for the single judge .*, not for the jury judge"),
    ],
)
async def test_a_calibration_for_another_judge_stops_the_run(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Other sampling, method, principles or judges than calibrated, or a promise beyond it: no call is made."""
    async with wire_server(reply=knowing(0.9), models=("toy", "other")) as server:
        plain = run_of(tmp_path, server.openai_url, labelled=labelled(tmp_path))
        out = tmp_path / "calibration.json"
        await calibrate(plain, str(out))
        calls = server.calls
        models = {
            name: {"backend": "vllm", "model": name, "endpoint": server.openai_url}
            for name in ("toy", "other")
        }
        config = small_config(tmp_path, server.openai_url, models=models)
        config["judge"] = {"model": "toy", "principles": 2, "calibration": str(out)} | changes
        with pytest.raises(ConfigError, match=message):
            await pipeline(RunConfig.model_validate(config))
        assert server.calls == calls


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jury", "cascade"])
async def test_several_judges_are_qualified_and_calibrated(tmp_path: Path, kind: str) -> None:
    """Figures of each and of the whole; a calibration of all of them is applied to all of them."""
    async with wire_server(reply=knowing(0.95), models=("toy", "other")) as server:
        write_inputs(tmp_path)
        models = {
            name: {"backend": "vllm", "model": name, "endpoint": server.openai_url}
            for name in ("toy", "other")
        }
        config = small_config(tmp_path, server.openai_url, models=models)
        config["judge"] = {kind: ["toy", "other"], "labelled": labelled(tmp_path), "threshold": 0.6}
        found = await calibrate(RunConfig.model_validate(config), str(tmp_path / "c.json"))
        assert set(found["members"]) == {
            m["judge"] for m in json.loads((tmp_path / "c.json").read_text())["members"]
        }
        config["judge"] |= {"calibration": str(tmp_path / "c.json"), "require_qualification": True}
        await pipeline(RunConfig.model_validate(config))
    rows = list(read_stage(RunConfig.model_validate(config), "judge", Judgment))
    assert any(row.p is not None and row.p != row.p_raw for row in rows)


@pytest.mark.slow
async def test_the_commands_say_it_with_their_exit_status(tmp_path: Path) -> None:
    """`cai judge qualify --json` prints one object and exits 1 for a refused judge; `calibrate` writes the file."""

    async def cai(*arguments: str) -> tuple[int, str, str]:
        environment = {**os.environ, "PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "prefect")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cai", "judge", *arguments, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async with wire_server(reply=knowing(0.1)) as server:
        write_inputs(tmp_path)
        config = tmp_path / "run.yaml"
        config.write_text(yaml.safe_dump(small_config(tmp_path, server.openai_url)))
        code, out, err = await cai("qualify", str(config), "--pairs", labelled(tmp_path), "--json")
        assert (code, json.loads(out)["qualified"]) == (1, False), err
        target = tmp_path / "c.json"
        code, out, err = await cai(
            "calibrate", str(config), "--pairs", labelled(tmp_path), "--out", str(target)
        )
        assert code == 0 and target.is_file(), err
        assert "refused" in out
        code, out, err = await cai("qualify", str(config), "--pairs", str(tmp_path / "none.jsonl"))
        assert code == 2 and err.count("\n") == 1 and "none.jsonl" in err
