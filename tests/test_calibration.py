"""Calibrations as files: what is stored is what a run applies, and promises beyond it are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai.config import JudgeConfig
from cai.constitution import Principle
from cai.errors import ConfigError
from cai.judge.cases import Case, outcome
from cai.judge.curve import Method
from cai.judge.fit import Settings
from cai.judge.label import JudgeRule, label
from cai.judge.promise import smallest_threshold
from cai.judge.summary import summarise
from cai.judges.calibration import calibrate, judge_identity, read_calibration, rules, write_calibration
from cai.rows import Verdict
from tests.test_judge_figures import METHODS, world

ONE = Principle(id="one", statement="Be good.")


def verdicts(case: Case) -> list[Verdict]:
    """The case as a run would have it."""
    return [
        Verdict(judge="j", principle="one", order=order, p=p, method="logprobs", calls=("c",))
        for order, p in (("ab", case.ab), ("ba", case.ba))
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_keeps_what_the_promise_was_proved_for(tmp_path: Path, method: Method) -> None:
    """Through the file and the label function, exactly the pairs from the proven confidence on are kept."""
    coarse = [
        case._replace(ab=round((case.ab or 0) * 20) / 20, ba=round((case.ba or 0) * 20) / 20)
        for case in world(500, bias=0.8)
    ]
    made = calibrate([("j", coarse)], method, 1, summarise([("j", coarse)], "single", Settings(method)))
    write_calibration(tmp_path / "c.json", made)
    stored = read_calibration(tmp_path / "c.json")
    assert stored == made
    judge = JudgeConfig(model="j", calibration="c.json", target_accuracy=0.8)
    (rule,) = rules(stored, judge)
    confidences = [row[0] for row in stored.rows]
    cut = smallest_threshold(confidences, 0.8, 0.1)
    assert cut is not None
    kept = [label(verdicts(case), [ONE], rule).state == "labelled" for case in coarse]
    assert kept == [sure >= cut for sure, _ in confidences]
    assert 50 < sum(kept) < 500


def test_replay_and_run_make_the_same_label() -> None:
    """`outcome`, which the figures use, and `label`, which runs use, agree on every case under every curve."""
    cases = world(200, bias=0.5)
    for method in METHODS:
        made = calibrate([("j", cases)], method, 1, summarise([("j", cases)], "single", Settings(method)))
        rule = JudgeRule(0.7, made.members[0].curve)
        for case in cases:
            figured, labelled = outcome(case, rule, ("ab", "ba")), label(verdicts(case), [ONE], rule)
            assert figured.p == labelled.p and figured.kept == (labelled.state == "labelled")


@pytest.mark.slow
def test_a_judge_that_could_keep_nothing_is_not_asked() -> None:
    """A promise beyond a judge, alone or as a tier of a cascade, stops the run and names it."""
    poor, good = ("poor", world(400, skill=0.2)), ("good", world(400, skill=4))
    both = calibrate(
        [poor, good], "temperature", 1, summarise([poor, good], "cascade", Settings("temperature"))
    )
    judge = JudgeConfig(cascade=("x", "y"), calibration="c.json", target_accuracy=0.85)
    with pytest.raises(ConfigError, match=r"0.85 cannot be promised by poor, .*leave it out of the cascade"):
        rules(both, judge)
    alone = calibrate([poor], "temperature", 1, summarise([poor], "single", Settings("temperature")))
    with pytest.raises(ConfigError, match=r"0.85 cannot be promised at risk 0.1 on the 400 pairs of c.json"):
        rules(alone, JudgeConfig(model="x", calibration="c.json", target_accuracy=0.85))
    assert len(rules(both, judge.model_copy(update={"target_accuracy": None}))) == 2


def test_the_identity_is_of_all_that_shapes_an_answer() -> None:
    """Model, wording, method, sampling and reasoning change it; what only decides about labels does not."""
    templates = {"turn": "t", "compare": "c", "critique": "x"}
    base = JudgeConfig(model="j")
    here = judge_identity("vllm:m", base, templates)
    for other in (
        judge_identity("vllm:n", base, templates),
        judge_identity("vllm:m", base, templates | {"compare": "d"}),
        judge_identity("vllm:m", base.model_copy(update={"method": "stated"}), templates),
        judge_identity("vllm:m", base.model_copy(update={"reasoning": True}), templates),
    ):
        assert other != here
    same = base.model_copy(update={"threshold": 0.9, "principles": 3, "labelled": "f"})
    assert judge_identity("vllm:m", same, templates | {"critique": "y"}) == here
