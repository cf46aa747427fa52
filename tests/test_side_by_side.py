"""Models side by side: the statistics as definitions have them, and a run's judge over a real wire to what is shown."""

from __future__ import annotations

import asyncio
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cai.conduct.stages import run_stages
from cai.conduct.work import HERE
from cai.config import RunConfig
from cai.constitution import load_constitution
from cai.errors import ConfigError
from cai.evaluate import win_rate as statistics
from cai.evaluate.compare import compare_stage
from cai.evaluate.require import check, lines_of, read_conditions
from cai.evaluate.summary import write_evaluation
from cai.evaluate.win_rate import (
    DRAWS,
    EVENTS,
    WEAK,
    EqualLength,
    Outcome,
    equal_length,
    longer_wins,
    sign_test,
    win_rate,
)
from cai.intervals import rate
from cai.pipeline import read_stage
from cai.plan.calls import calls_a_comparison
from cai.plan.make import make_plan
from cai.plan.per_prompt import Shares, calls_a_prompt
from cai.publish import grade_by_rules, publish_rows, write_held_out
from cai.report.page import write_report
from cai.report.status import run_status
from cai.report.summary import print_status
from cai.rows import Drop, Judgment, Prompt, Reply
from cai.runfolder.hold import start_run
from flows.artifacts import TABLES
from flows.tasks import kind_of
from tests.flows.small import small_run
from tests.test_train_run import config_of
from tests.wire import Answer, Json, Wire, wire_server

OUTCOMES = st.lists(st.builds(Outcome, st.sampled_from([0.0, 0.5, 1.0]), st.integers(-300, 300)), max_size=60)
HELD = {"sources": [{"path": "held.jsonl"}], "grader": "embedded"}


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Any:
    """As many draws as a bound can be told by, so that hundreds of examples take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "DRAWS", 40)
        yield


def mirrored(outcomes: list[Outcome]) -> list[Outcome]:
    """The same comparisons, with the two models exchanged."""
    return [Outcome(1 - one.score, -one.longer) for one in outcomes]


def drawn(n: int, slope: float, shift: float, seed: int) -> list[Outcome]:
    """Comparisons that length decides with `slope`, and a preference of `shift` log-odds; the model is wordier."""
    rng = random.Random(seed)
    lengths = [round(rng.gauss(60, 100)) for _ in range(n)]
    odds = [slope * math.tanh(length / 100) + shift for length in lengths]
    return [
        Outcome(float(rng.random() < 1 / (1 + math.exp(-o))), x) for o, x in zip(odds, lengths, strict=True)
    ]


@given(OUTCOMES, st.integers(0, 2**63 - 1))
@settings(max_examples=40)
def test_exchanging_the_models_mirrors_everything(outcomes: list[Outcome], seed: int) -> None:
    """Win rate, counts, p-value and bounds; the same seed gives the same digits."""
    found, other = win_rate(outcomes, seed), win_rate(mirrored(outcomes), seed)
    assert (found.wins, found.ties, found.losses, found.n) == (other.losses, other.ties, other.wins, other.n)
    assert found.n == len(outcomes) and win_rate(outcomes, seed) == found
    assert sign_test(found.wins, found.losses) == sign_test(found.losses, found.wins)
    assert longer_wins(outcomes) == longer_wins(mirrored(outcomes))
    if not outcomes:
        assert found.rate is found.low is found.high is None
        return
    assert found.rate is not None and found.low is not None and found.high is not None
    assert other.rate is not None and other.low is not None and other.high is not None
    assert found.rate == (2 * found.wins + found.ties) / (2 * found.n)
    assert found.rate == pytest.approx(1 - other.rate, abs=1e-15)
    assert found.low == pytest.approx(1 - other.high) and found.high == pytest.approx(1 - other.low)
    assert 0 <= found.low <= found.high <= 1


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_comparisons_that_all_end_alike_have_wilsons_interval(score: float) -> None:
    """A bootstrap of them would be sure of itself after three; nothing is left to control for length."""
    found = win_rate([Outcome(score, n) for n in range(30)], 0)
    assert (found.rate, found.low, found.high) == (score, rate(30 * score, 30).low, rate(30 * score, 30).high)
    why_not = equal_length([Outcome(score, n) for n in range(30)], 0).why_not
    assert why_not == (
        "nothing but ties" if score == 0.5 else "fewer than 10 wins or 10 losses, a tie being half of each"
    )


def test_bounds_are_those_of_the_normal_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 comparisons with 100 ties, within a tenth of the standard error of a mean of scores."""
    monkeypatch.setattr(statistics, "DRAWS", 4_000)
    outcomes = [Outcome(1.0, 0)] * 180 + [Outcome(0.5, 0)] * 100 + [Outcome(0.0, 0)] * 120
    found = win_rate(outcomes, 3)
    error = math.sqrt((180 * (1 - 0.575) ** 2 + 100 * 0.075**2 + 120 * 0.575**2) / 400 / 400)
    assert found.rate == 0.575 and found.low is not None and found.high is not None
    assert found.low == pytest.approx(0.575 - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(0.575 + 1.96 * error, abs=0.2 * error)


def test_the_sign_test_is_a_coins() -> None:
    """Six wins and no loss: 2 of 64 throws are as far from even; ties are not asked; nothing decided, no p-value."""
    assert sign_test(6, 0) == sign_test(0, 6) == pytest.approx(2 / 64)
    assert sign_test(4, 4) == 1.0 and sign_test(0, 0) is None


def test_a_preference_for_length_alone_is_gone_at_equal_length() -> None:
    """The wordier model wins by length; at equal length it does not, and a real preference stays what it is."""
    wordy = drawn(600, slope=3.0, shift=0.0, seed=1)
    raw, controlled = win_rate(wordy, 0), equal_length(wordy, 0)
    assert raw.low is not None and raw.low > 0.55
    assert (
        controlled.low is not None and controlled.high is not None and controlled.low < 0.5 < controlled.high
    )
    better = equal_length(drawn(600, slope=3.0, shift=1.0, seed=2), 0)
    assert better.rate == pytest.approx(1 / (1 + math.exp(-1)), abs=0.05) and (better.low or 0) > 0.5
    swapped = equal_length(mirrored(wordy), 0)
    assert controlled.rate is not None and swapped.rate == pytest.approx(1 - controlled.rate, abs=1e-4)


def test_where_length_decides_everything_the_regression_stays_finite() -> None:
    """The longer reply always wins, so no slope is steep enough; at equal length neither does."""
    outcomes = [Outcome(float(one.longer > 0), one.longer) for one in drawn(400, 0, 0, 5) if one.longer]
    found = equal_length(outcomes, 0)
    assert longer_wins(outcomes) == 1 and (win_rate(outcomes, 0).rate or 0) > 0.7
    assert found.rate == pytest.approx(0.5, abs=0.1) and (found.low or 1) < 0.5 < (found.high or 0)


@pytest.mark.parametrize(
    ("outcomes", "why_not"),
    [
        ([], "fewer than 10 wins or 10 losses"),
        ([Outcome(1.0, 3)] * 40 + [Outcome(0.0, -3)] * 9, "fewer than 10 wins or 10 losses"),
        ([Outcome(1.0, 7)] * 20 + [Outcome(0.0, 7)] * 20, "all replies differ equally in length"),
        ([Outcome(1.0, 0)] * 20 + [Outcome(0.0, 0)] * 20, "all replies differ equally in length"),
    ],
)
def test_what_cannot_be_fitted_is_said(outcomes: list[Outcome], why_not: str) -> None:
    """No rate is made up."""
    found = equal_length(outcomes, 0)
    assert found == EqualLength(n=len(outcomes), why_not=found.why_not) and (found.why_not or "").startswith(
        why_not
    )


def test_which_models_are_compared(tmp_path: Path) -> None:
    """True: each with the one that it started from; a list: as it says; what cannot be compared is refused by name."""

    def compared(
        side_by_side: Any, evaluate_judge: str | None = None, **changes: Any
    ) -> tuple[tuple[str, str], ...]:
        held = HELD | {"side_by_side": side_by_side, "judge": evaluate_judge}
        return config_of(tmp_path, evaluate=held, **changes).compared

    assert compared(True, sft={}, dpo={}, orpo={}) == (("sft", "base"), ("dpo", "sft"), ("orpo", "base"))
    assert compared(True, dpo={}) == (("dpo", "base"),) and compared(True) == compared(False, dpo={}) == ()
    assert compared([["dpo", "base"]], sft={}, dpo={}) == (("dpo", "base"),)
    assert compared(True, recipe="paper", sft={}, dpo={"rounds": 3})[1:] == (
        ("dpo-1", "sft"), ("dpo-2", "dpo-1"), ("dpo", "dpo-2"),
    )  # fmt: skip
    assert kind_of("compare-dpo-2-vs-dpo-1") == "compare"
    for pairs, problem in (
        ([["dpo", "kto"]], "side_by_side: the run evaluates no model 'kto', only base, dpo"),
        ([["dpo", "dpo"]], r"side_by_side: \[dpo, dpo\] compares nothing new"),
        ([["dpo", "base"], ["base", "dpo"]], r"side_by_side: \[base, dpo\] compares nothing new"),
    ):
        with pytest.raises(ConfigError, match=problem):
            compared(pairs, dpo={})
    with pytest.raises(ConfigError, match=r"evaluate\.judge: 'x' is not under 'models'"):
        compared(True, evaluate_judge="x")
    with pytest.raises(ConfigError, match="judge: 'm' would grade and compare nothing"):
        compared(False, evaluate_judge="m")


SAID = {  # base and sft, of four kinds of prompt
    0: ("The same words.", "The same words."),
    1: ("A bad reply.", "A fine reply that is longer."),
    2: ("A fine reply.", "A bad reply that is longer."),
    3: ("It depends.", "Who can say."),
}
PROMPTS = 42


def critical(body: Json) -> Answer | str:
    """Prefers the fine reply; between others the one shown first; says nothing of use about prompt 39."""
    text = body["messages"][-1]["content"]
    if "What is 39?" in text:
        return Answer("Neither.", {"N": 1.0})
    fine = [side for side in "AB" if "fine" in text.split(f"reply {side}>")[1].split("</")[0]] or ["A"]
    return Answer(fine[0], {side: 0.9 if side == fine[0] else 0.1 for side in "AB"})


def answered(folder: Path, endpoint: str, **evaluate: Any) -> RunConfig:
    """A run whose two models have replied to held-out prompts, but for one that was cut; a judge at `endpoint`."""
    rows = [{"id": f"h{n}", "prompt": f"What is {n}?", "tags": [f"kind-{n % 4}"]} for n in range(PROMPTS)]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = HELD | {"sources": [{"path": str(folder / "held.jsonl")}], "side_by_side": True, "judge": "j"}
    plain = small_run(folder, endpoint)
    managed = {"backend": "vllm", "model": "m", "managed": {}}
    judge = plain.models["toy"].model_dump(mode="json")
    changes = {
        "models": {"m": managed, "j": judge, "other": judge | {"model": "other"}},
        "sft": {},
        "evaluate": held | evaluate,
    }
    roles = {"policy": {"model": "m"}, "critic": {"model": "m"}, "judge": {"model": "other", "principles": 2}}
    config = RunConfig.model_validate(plain.model_dump(mode="json") | changes | roles)
    assert config.evaluate is not None
    with start_run(config):
        write_held_out(config, config.evaluate.sources)
        prompts = list(read_stage(config, "held-out", Prompt))
        for side, model in enumerate(("base", "sft")):
            replies: list[Reply | Drop] = [
                Reply(
                    id=f"{prompt.id}/r0", prompt=prompt, sample=0, finish_reason="stop", model="m", calls=("c",),
                    text=SAID[int(prompt.id[1:]) % 4][side],
                )
                for prompt in prompts
            ]  # fmt: skip
            if model == "sft":
                replies[-1] = Drop(id=replies[-1].id, stage="evaluate", reason="truncated")
            publish_rows(config.root, f"evaluate-{model}", 0, model, replies)
            grade_by_rules(config, model)
    return config


def judged(tmp_path: Path) -> tuple[RunConfig, dict[str, Any], Wire]:
    """A run whose judge has compared all, and compares nothing twice."""

    async def ask() -> tuple[RunConfig, Wire]:
        async with wire_server(reply=critical) as server:
            config = answered(tmp_path, server.openai_url)
            stages = [compare_stage(models) for models in config.compared]
            await run_stages(config, stages, HERE)
            calls = server.calls
            await run_stages(config, stages, HERE)
            assert server.calls == calls
            return config, server

    config, server = asyncio.run(ask())
    return config, write_evaluation(config, ["base", "sft"])["side_by_side"]["sft-vs-base"], server


def test_a_judge_compares_the_models_of_a_run(tmp_path: Path) -> None:
    """Both orders under the drawn principles; identical replies and changed sides are ties; all prompts are counted."""
    config, found, server = judged(tmp_path)
    won = found["win_rate"]
    assert (won["n"], won["wins"], won["ties"], won["losses"]) == (40, 10, 20, 10)
    assert won["rate"] == 0.5 and 0.3 < won["low"] < 0.5 < won["high"] < 0.7 and found["p_value"] == 1
    assert (found["identical"], found["inconsistent"]) == (11, 9)
    assert found["unscored"] == {"truncated": 1, "unparsed": 1}
    # thirty prompts in both orders under two principles, of which one cannot be read at the third attempt
    assert server.calls == 29 * 4 + 4 * 3
    assert found["position"]["verdicts"] == 29 * 4
    assert found["position"]["first_position_rate"] == (20 * 2 + 9 * 4) / (29 * 4)
    assert {tag: won["rate"] for tag, won in found["tags"].items()} == {
        "kind-0": 0.5, "kind-1": 1.0, "kind-2": 0.0, "kind-3": 0.5,
    }  # fmt: skip
    rows = list(read_stage(config, "compare-sft-vs-base", Judgment))
    assert found["judge"] == "j" and {verdict.judge for row in rows for verdict in row.verdicts} == {"j"}
    assert found["longer_wins"] == 0.5 and found["equal_length"]["n"] == 40
    again = write_evaluation(config, ["base", "sft"])["side_by_side"]["sft-vs-base"]
    assert again == found and (config.root / "made" / "compare-sft-vs-base.json").is_file()


def test_what_was_compared_is_shown(tmp_path: Path) -> None:
    """Status, page, artifact and model card; each unscored reason; a narrow terminal cuts no figure."""
    config, found, _ = judged(tmp_path)
    out = io.StringIO()
    status = run_status(config.root)
    print_status(status, Console(file=out, width=80))
    shown = out.getvalue()
    assert status["stages"]["compare-sft-vs-base"]["rows_out"] == 41
    low, high = (round(100 * found["win_rate"][bound]) for bound in ("low", "high"))
    assert f"50.0 [{low}, {high}]" in shown and "10/20/10" in shown and "1.0000" in shown
    assert (
        "compared sft vs base: judged by j; of the ties 11 are identical replies and 9 changed sides with the order; "
        "66% of 116 verdicts for the reply shown first; the longer reply won 50% of the decided ones; "
        "unscored: truncated 1, unparsed 1"
    ) in shown
    page = write_report(config).read_text()
    page = page[page.index("<body>") :]
    assert "Side by side" in page and "10/20/10" in page and 'name">kind-1</td><td class="n">100.0' in page
    assert {
        key: value
        for key, value in TABLES["evaluation"][1](config.root)[-2].items()
        if key in ("model", "metric")
    } == {"model": "sft-vs-base", "metric": "win_rate"}


def test_the_gate_reads_pairs(tmp_path: Path) -> None:
    """By name, or the pair that the last policy is the first of; with what was counted; never what was not measured."""
    config, found, _ = judged(tmp_path)
    measured = {"side_by_side": {"sft-vs-base": found}}
    conditions = read_conditions("win_rate>=0.5,sft-vs-base.equal_length>0.95", config)
    met, unmet = check(conditions, measured)
    assert met.met and not unmet.met
    low, high = found["win_rate"]["low"], found["win_rate"]["high"]
    assert met.line == (
        f"sft-vs-base win_rate 0.500 [{low:.3f}, {high:.3f}], 10 won, 20 tied, 10 lost, must be >= 0.5 "
        "(unscored: truncated 1, unparsed 1)"
    )
    found["equal_length"] = EqualLength(n=40, why_not="nothing but ties").model_dump()
    assert lines_of(check(conditions[1:], measured)) == [
        "unmet    sft-vs-base equal_length was not measured, must be > 0.95 (nothing but ties)"
    ]
    for text, problem in (
        ("dpo-vs-sft.win_rate>0", "the run compares no pair 'dpo-vs-sft', of sft-vs-base"),
        ("winrate>0", r"no metric 'winrate', .*; did you mean 'win_rate'\?"),
    ):
        with pytest.raises(ConfigError, match=problem):
            read_conditions(text, config)
    with pytest.raises(ConfigError, match=r"the config compares no models; add evaluate\.side_by_side"):
        read_conditions("win_rate>0", config_of(tmp_path, evaluate=HELD))
    two = config_of(
        tmp_path, evaluate=HELD | {"side_by_side": [["dpo", "sft"], ["dpo", "base"]]}, sft={}, dpo={}
    )
    with pytest.raises(ConfigError, match="say which pair is meant, of dpo-vs-sft, dpo-vs-base"):
        read_conditions("win_rate>0", two)


def test_comparisons_are_planned(tmp_path: Path) -> None:
    """Every held-out prompt in both orders under each principle, at the price of the model that compares."""
    config = answered(tmp_path, "http://127.0.0.1:9/v1")
    (stage,) = (stage for stage in make_plan(config).stages if stage.stage.startswith("compare-"))
    assert (stage.stage, stage.model, stage.calls.low, stage.calls.high) == (
        "compare-sft-vs-base", "j", 0, PROMPTS * calls_a_comparison(config),
    )  # fmt: skip
    assert stage.prompt_tokens > stage.calls.high
    constitution = load_constitution(config.constitution)
    calls = calls_a_prompt(config, constitution, Shares(1, 1, 1, 1, 2, "given"))
    (each,) = (call for call in calls if call.stage == stage.stage)
    assert (each.fixed, each.model, each.formula) == (
        PROMPTS * 4,
        "j",
        "42 held out × 2 principles × 2 orders",
    )


def test_the_documented_numbers_are_those_of_the_code() -> None:
    """Draws, the least of wins and losses, and the penalty."""
    text = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text()
    for said in (
        f"{DRAWS:,} bootstrap draws",
        f"fewer than {EVENTS} wins or {EVENTS} losses",
        f"`C={WEAK:g}`",
    ):
        assert said in text, said
