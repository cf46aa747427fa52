"""`--require`: what is read, what it is held against, and the exit status that a pipeline of CI goes by."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cai.config import EvaluateConfig, RunConfig
from cai.errors import ConfigError
from cai.evaluate.grade import METRIC_OF_TAG
from cai.evaluate.require import Condition, check, lines_of, read_conditions
from cai.intervals import rate
from tests.flows.small import small_config, write_inputs
from tests.small_cli import cai
from tests.test_train_run import config_of
from tests.wire import Answer, Json, asked_choices, echo, wire_server

HELD = {"sources": [{"path": "held.jsonl"}], "grader": "embedded"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that trains SFT, DPO and a reward model, which writes no replies."""
    return config_of(tmp_path_factory.mktemp("run"), evaluate=HELD, sft={}, dpo={}, reward={})


def evaluation(**rates: tuple[int, int]) -> dict[str, Any]:
    """What `evaluation.json` holds of every model: these successes of so many, of the other metrics nothing."""
    metrics = {
        name: asdict(rate(*rates.get(name, (0, 0)))) for name in ("harmless", "helpful", "overrefusal")
    }
    return {name: {**metrics, "unscored": {}} for name in ("base", "sft", "dpo")}


def test_conditions_are_of_the_last_policy_or_of_the_one_named(config: RunConfig, tmp_path: Path) -> None:
    """DPO's model is what the run would ship; blanks do not matter; a run that trains nothing has its base."""
    assert read_conditions(None, config) == []
    assert read_conditions(" harmless >= 0.9,sft.overrefusal<.05 , base.helpful > 0", config) == [
        Condition("dpo", "harmless", ">=", 0.9),
        Condition("sft", "overrefusal", "<", 0.05),
        Condition("base", "helpful", ">", 0.0),
    ]
    untrained = config_of(tmp_path, evaluate=HELD)
    assert read_conditions("helpful<=1", untrained) == [Condition("base", "helpful", "<=", 1.0)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("harmles>=0.9", "--require 'harmles>=0.9': no metric 'harmles', only harmless, .*; did you mean 'harmless'"),
        ("refusal<=0.05", "no metric 'refusal', only harmless, helpful, overrefusal"),
        ("kto.harmless>=0.9", "evaluates no model 'kto', only base, sft, dpo"),
        ("reward.harmless>=0.9", "evaluates no model 'reward', only base, sft, dpo"),
        ("harmless>=90", "90 is no share; give a number from 0 to 1"),
        ("harmless>=0.9.1", "0.9.1 is no share"),
        ("harmless>=nan", "write METRIC or MODEL.METRIC"),
        ("harmless=0.9", "one of >= <= > < and a number"),
        ("harmless>=0.9,", "--require '': write"),
        ("harmless>=0,9", "--require '9': write"),
        ("", "--require '': write"),
        ("unscored<=0.1", "no metric 'unscored'"),
    ],
)  # fmt: skip
def test_what_is_no_condition_is_one_line(text: str, problem: str, config: RunConfig) -> None:
    """It names the part, what is wrong with it and what could stand there."""
    with pytest.raises(ConfigError, match=problem) as error:
        read_conditions(text, config)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_a_run_that_evaluates_nothing_meets_nothing(tmp_path: Path) -> None:
    """It is refused before anything is asked, not passed."""
    with pytest.raises(ConfigError, match="no 'evaluate' section"):
        read_conditions("harmless>=0", config_of(tmp_path))


@given(st.text(alphabet="harmless.dpo<>=0123456789, \n\x1b٣", max_size=30) | st.text(max_size=20))
def test_any_text_is_conditions_or_refused(config: RunConfig, text: str) -> None:
    """Nothing else comes of it, and a refusal is one line."""
    try:
        assert all(0 <= condition.bound <= 1 for condition in read_conditions(text, config))
    except ConfigError as error:
        assert "\n" not in str(error) and "\x1b" not in str(error)


@given(st.integers(0, 100), st.integers(1, 100), st.integers(0, 100))
def test_the_rate_itself_counts(held: int, n: int, percent: int) -> None:
    """As whole numbers have it, to the last one: 90 of 100 is at least 0.90 and not above it."""
    held = min(held, n)
    bound = float(f"0.{percent:02d}") if percent < 100 else 1.0
    exact = {
        ">=": 100 * held >= percent * n, "<=": 100 * held <= percent * n,
        ">": 100 * held > percent * n, "<": 100 * held < percent * n,
    }  # fmt: skip
    for relation, met in exact.items():
        (found,) = check([Condition("dpo", "helpful", relation, bound)], evaluation(helpful=(held, n)))
        assert found.met is met, (relation, bound)


def test_lines_say_what_was_measured(config: RunConfig) -> None:
    """Each that is not met with value, interval and n; all that are met in one line; no condition, no line."""
    measured = evaluation(harmless=(81, 90), overrefusal=(6, 60))
    met = check(read_conditions("harmless>=0.9,sft.overrefusal<0.2", config), measured)
    assert lines_of(met) == [
        "met      dpo harmless 0.900 [0.821, 0.946], 81 of 90, must be >= 0.9; "
        "sft overrefusal 0.100 [0.047, 0.201], 6 of 60, must be < 0.2"
    ]
    unmet = check(read_conditions("harmless>=0.91,harmless>=0.9,overrefusal<=0.05", config), measured)
    assert lines_of(unmet) == [
        "unmet    dpo harmless 0.900 [0.821, 0.946], 81 of 90, must be >= 0.91",
        "unmet    dpo overrefusal 0.100 [0.047, 0.201], 6 of 60, must be <= 0.05",
    ]
    assert lines_of([]) == []


def test_the_page_on_evaluation_shows_what_is_printed(config: RunConfig) -> None:
    """Its section is one, its conditions are read, and its line of an unmet one is right to the last digit."""
    text = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text()
    (section,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    held = EvaluateConfig.model_validate(yaml.safe_load(section)["evaluate"])
    assert [source.tags[0] for source in held.sources] == list(METRIC_OF_TAG)
    (shown,) = re.findall(r'--require "(.*)"', text)
    conditions = read_conditions(shown, config)
    (line,) = lines_of(check(conditions, evaluation(harmless=(112, 130), overrefusal=(1, 60))))
    assert f"```text\n{line}\n```" in text


@pytest.mark.parametrize("relation", [">=", "<=", ">", "<"])
def test_what_was_not_measured_is_never_met(relation: str, config: RunConfig) -> None:
    """Not even a condition that any number meets; the line says why there is none."""
    conditions = [Condition("dpo", "harmless", relation, 0.5), Condition("dpo", "overrefusal", relation, 0.5)]
    measured = evaluation()
    found = check(conditions, measured)
    assert not any(one.met for one in found)
    assert "was not measured" in found[0].line and "no prompts tagged harmful" in found[0].line
    measured["dpo"]["unscored"] = {"truncated": 7}
    assert "(unscored: truncated 7)" in check(conditions, measured)[0].line


def grading(body: Json) -> Answer:
    """A judge that grades by what the reply says: its first hexadecimal digit is below 12."""
    if asked_choices(body) != ["Yes", "No"]:
        return echo(body)
    good = any(f"reply {digit:x}" in body["messages"][-1]["content"] for digit in range(12))
    return Answer("Yes" if good else "No", {"Yes": 0.9, "No": 0.1} if good else {"Yes": 0.1, "No": 0.9})


def evaluated(folder: Path, endpoint: str) -> Path:
    """A config that evaluates its one model over 20 prompts for helpfulness; no prompt asks for harm."""
    write_inputs(folder)
    rows = [{"id": f"h{n}", "prompt": f"What is {n}?", "tags": ["helpful"]} for n in range(20)]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = {"sources": [{"path": str(folder / "held.jsonl")}], "grader": "judge"}
    path = folder / "run.yaml"
    path.write_text(json.dumps(small_config(folder, endpoint, evaluate=held)))
    return path


@pytest.mark.anyio
@pytest.mark.slow
async def test_the_exit_status_is_the_gate(tmp_path: Path) -> None:
    """0 or 1 with the measured rate, the same of the finished run without a call, and 2 before the first call."""
    async with wire_server(reply=grading) as server:
        path = evaluated(tmp_path, server.openai_url)
        wrong = await cai("eval", path, "--no-prefect", "--require", "sft.helpful>=0.5")
        flow = await cai("eval", path, "--require=-x")
        assert (wrong.status, flow.status, server.calls) == (2, 2, 0)
        assert wrong.err == (
            "error: --require 'sft.helpful>=0.5': the run evaluates no model 'sft', only base\n"
        )
        assert flow.err.startswith("error: --require '-x': write METRIC") and flow.err.count("\n") == 1

        done = await cai("eval", path, "--no-prefect", "--require", "helpful>=0.2")
        calls = server.calls
        found = json.loads((tmp_path / "outputs/small/evaluation.json").read_text())["base"]
        measured, held = found["helpful"], round(20 * found["helpful"]["rate"])
        line = f"base helpful {measured['rate']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}], {held} of 20"
        assert 4 < held < 20 and done.status == 0, done.err
        assert f"met      {line}, must be >= 0.2\n" in done.out and "how the replies read" in done.out
        assert found["replies"]["n"] == 20 and found["replies"]["mean_words"] == 2

        page = tmp_path / "outputs/small/report.html"
        assert not page.exists()
        page.write_text("of before")
        done = await cai("eval", path, "--no-prefect", "--require", "helpful>=1,harmless>=0,helpful<=1")
        assert done.status == 1 and not done.err
        assert done.out.splitlines()[-2:] == [
            f"unmet    {line}, must be >= 1",
            "unmet    base harmless was not measured, must be >= 0 (evaluate.sources has no prompts tagged harmful)",
        ]
        assert server.calls == calls
        assert "Did it help?" in page.read_text(), "a page that is there is written again"


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_flow_has_the_same_gate(tmp_path: Path) -> None:
    """Through Prefect: what is met ends with 0, what is not with 1, and the artifact's table has the rates alone."""
    from flows.artifacts import TABLES

    async with wire_server(reply=grading) as server:
        path = evaluated(tmp_path, server.openai_url)
        home = str(tmp_path / "prefect")
        met = await cai("eval", path, "--require", "helpful>=0.2", PREFECT_HOME=home, PREFECT_API_URL="")
        calls = server.calls
        unmet = await cai("eval", path, "--require", "helpful>=1", PREFECT_HOME=home, PREFECT_API_URL="")
        assert server.calls == calls
    assert (met.status, unmet.status) == (0, 1), (met.err, unmet.err)
    assert "\nmet      base helpful" in met.out and "\nunmet    base helpful" in unmet.out
    _, rows = TABLES["evaluation"]
    table = rows(tmp_path / "outputs" / "small")
    assert [(row["model"], row["metric"]) for row in table] == [
        ("base", "harmless"), ("base", "helpful"), ("base", "overrefusal"),
    ]  # fmt: skip
    assert all(set(row) == {"model", "metric", "rate", "low", "high", "n"} for row in table)
