"""Figures, calibration, promise and qualification, as pure functions on cases whose numbers are known by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.exact import lower_bound
from cai.judge.cases import Case, Gold, folds, outcome
from cai.judge.combine import align, jury_cases, run_cascade
from cai.judge.curve import RAW, Curve, Method
from cai.judge.figures import figures
from cai.judge.fit import Settings, fit_curve, fit_rule, out_of_fold, position_bias
from cai.judge.label import JudgeRule
from cai.judge.promise import smallest_threshold
from cai.judge.qualify import qualify
from cai.judge.summary import summarise

METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def world(
    n: int, *, seed: int = 0, slope: float = 1.0, bias: float = 0.0, skill: float = 2.0, noise: float = 1.0
) -> list[Case]:
    """A judge that sees the truth through noise, says `slope` times its log-odds, and favours the first by `bias`."""
    rng = random.Random(seed)
    found = []
    for index in range(n):
        truth = rng.choice((-1, 1))
        seen = truth * skill / 2 + rng.gauss(0, noise)
        ab, ba = sigmoid(slope * seen + bias), sigmoid(slope * seen - bias)
        found.append(Case(f"c{index}", "A" if truth > 0 else "B", ab, ba, rng.choice((0.0, 0.5, 1.0))))
    return found


def inverted(cases: Sequence[Case]) -> list[Case]:
    """The judge that says the opposite."""
    return [
        c._replace(ab=None if c.ab is None else 1 - c.ab, ba=None if c.ba is None else 1 - c.ba)
        for c in cases
    ]


def swapped(cases: Sequence[Case]) -> list[Case]:
    """The same verdicts with the names a and b exchanged."""
    other: dict[Gold | None, Gold | None] = {"A": "B", "B": "A", "tie": "tie", None: None}
    return [
        Case(
            c.id,
            other[c.gold],
            None if c.ba is None else 1 - c.ba,
            None if c.ab is None else 1 - c.ab,
            1 - c.longer,
        )
        for c in cases
    ]


def test_figures_by_hand() -> None:
    """Six pairs, every figure counted on paper."""
    cases = [
        Case("1", "A", 1.0, 1.0, 1.0),  # right, both orders, takes the longer
        Case("2", "B", 0.0, 0.0, 1.0),  # right, both orders, takes the shorter
        Case("3", "A", 1.0, 0.0, 0.0),  # first wins twice: half a hit
        Case("4", "B", 1.0, 1.0, 0.5),  # wrong, both orders, equal lengths
        Case(
            "5", "A", None, 1.0, 0.0
        ),  # one order unread: right by the other; takes the shorter, as the gold
        Case("6", "tie", 0.9, 0.9, 0.0),
        Case("7", None, 0.9, 0.9, 0.0),
        Case("8", "A", None, None, 0.0),
    ]
    found = figures(cases, Settings(threshold=0.7))
    assert (found.rows, found.scored, found.unscored) == (8, 5, 3)
    assert found.unscored_reasons == {"gold_tie": 1, "no_gold": 1, "unparsed": 1}
    assert found.accuracy == pytest.approx(3.5 / 5)
    assert found.accuracy_a_first == pytest.approx(3 / 4)  # 1, 2 and 3 of 1, 2, 3, 4
    assert found.agreement == pytest.approx(5 / 6)  # all with both orders but 3
    assert found.accuracy_when_agreed == pytest.approx(2 / 3)  # 1 and 2 of 1, 2, 4
    assert found.first_position_rate == pytest.approx((5 * 0.5 + 1) / 6)
    assert found.longer_rate == pytest.approx((1 + 0 + 0.5 + 0.5 + 0) / 5)
    assert found.gold_longer_rate == found.longer_wins_accuracy == pytest.approx((1 + 0 + 0 + 0.5 + 0) / 5)
    assert found.brier == pytest.approx((0 + 0 + 0.25 + 1 + 0) / 5)
    assert found.ece == pytest.approx((4 * (1 - 3 / 4) + 1 * 0) / 5)
    assert found.coverage == pytest.approx(4 / 6)  # 1, 2, 4 and the tie; 5 lacks an order
    assert found.accuracy_at_threshold == pytest.approx(2 / 4)
    assert found.ece_calibrated is None  # too few pairs to fit anything


def test_one_order_cannot_tell_about_the_other() -> None:
    """Agreement and position are unknown, not zero, where only one order was asked; labels need only that order."""
    cases = [c._replace(ba=None) for c in world(60)]
    found = figures(cases, Settings())
    assert found.agreement is found.accuracy_when_agreed is found.first_position_rate is None
    assert found.position_bias is None
    assert found.coverage is not None and found.coverage > 0.3


@pytest.mark.slow
@given(st.integers(0, 50), st.floats(-1, 1))
@settings(deadline=None, max_examples=4)
def test_figures_do_not_know_which_reply_is_a(seed: int, bias: float) -> None:
    """Exchanging a and b in every pair changes no figure, and neither does the order of the file."""
    cases = world(60, seed=seed, bias=bias)
    for how in (Settings(), Settings("temperature", target=0.7)):
        found = figures(cases, how)
        for other in (swapped(cases), cases[::-1]):
            again = figures(other, how)
            # `a shown first` is the one figure that is about a; the diagrams are lists of the same figures
            for name in set(type(found).model_fields) - {"accuracy_a_first", "reliability", "risk_coverage"}:
                assert getattr(again, name) == pytest.approx(getattr(found, name), abs=1e-6), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("slope", [pytest.param(0.6, marks=pytest.mark.slow), 8.0])
def test_calibration_mends_confidence_out_of_fold(method: Method, slope: float) -> None:
    """A judge that is over- or under-confident is calibrated on pairs that the curve never saw."""
    found = figures(world(1500, slope=slope), Settings(method))
    assert found.ece is not None and found.ece_calibrated is not None
    assert found.ece > 0.06
    assert found.ece_calibrated < 0.035


@pytest.mark.parametrize("method", METHODS)
def test_a_curve_keeps_the_order_of_confidences(method: Method) -> None:
    """Whatever is surer before a calibration is surer after it, so a threshold keeps the same pairs."""
    cases = world(300, slope=3)
    curve = fit_curve(method, cases)
    bias = Curve(position_bias=curve.position_bias)
    both = []
    for case in cases:
        raw = outcome(case, JudgeRule(0.5, bias), ("ab", "ba")).p
        new = outcome(case, JudgeRule(0.5, curve), ("ab", "ba")).p
        assert raw is not None and new is not None and (raw - 0.5) * (new - 0.5) >= 0
        both.append((abs(raw - 0.5), abs(new - 0.5)))
    both.sort()
    assert all(later[1] >= earlier[1] for earlier, later in pairwise(both))


def test_position_bias_is_measured_without_labels_and_taken_off() -> None:
    """The bias in log-odds is found from the two orders alone; without it more pairs are consistent."""
    cases = world(400, bias=1.2)
    assert position_bias(cases) == pytest.approx(1.2)
    assert position_bias(swapped(cases)) == pytest.approx(1.2)
    raw, calibrated = figures(cases, Settings(threshold=0.5)), figures(cases, Settings("temperature", 0.5))
    assert raw.coverage is not None and calibrated.coverage is not None
    assert calibrated.coverage > raw.coverage + 0.2


def test_too_few_or_perfect_pairs_fit_nothing_absurd() -> None:
    """Under twenty scored pairs there is no curve; a judge that was always right is still not certain."""
    few = world(19)
    assert fit_curve("temperature", few) == RAW
    perfect = [Case(str(i), "A", 1.0, 1.0, 0.5) for i in range(30)]
    for method in METHODS:
        p = outcome(perfect[0], JudgeRule(0.5, fit_curve(method, perfect)), ("ab", "ba")).p
        assert p is not None and 0.9 < p < 1


def test_the_lower_bound_is_clopper_pearson() -> None:
    """Against the textbook: 10 of 10 at 5 % proves 0.05 ** 0.1, none of 10 proves nothing."""
    assert lower_bound(10, 10, 0.05) == pytest.approx(0.05**0.1)
    assert lower_bound(0, 10, 0.05) == 0.0
    assert lower_bound(9, 10, 0.05) < lower_bound(10, 10, 0.05)


def test_a_threshold_is_chosen_or_there_is_none() -> None:
    """Sure pairs right, unsure ones a coin: the threshold separates them; a coin keeps no promise."""
    rng = random.Random(1)
    cases = [(0.9 + i / 1e4, True) for i in range(200)] + [
        (0.6 + i / 1e4, rng.random() < 0.5) for i in range(200)
    ]
    chosen = smallest_threshold(cases, 0.9, 0.1)
    assert chosen is not None and 0.6 < chosen <= 0.92
    kept = [right for sure, right in cases if sure >= chosen]
    assert sum(kept) / len(kept) >= 0.9
    coin = [(rng.random(), rng.random() < 0.5) for _ in range(300)]
    assert smallest_threshold(coin, 0.9, 0.1) is None
    assert smallest_threshold([], 0.9, 0.1) is None
    assert smallest_threshold([(0.9, True)] * 3, 0.9, 0.1) is None  # three pairs prove nothing


def test_pairs_of_equal_confidence_are_let_through_together() -> None:
    """A threshold on hard verdicts keeps all of them or none."""
    cases = [(1.0, True)] * 95 + [(1.0, False)] * 5 + [(0.0, False)] * 20
    assert smallest_threshold(cases, 0.85, 0.1) == 1.0
    assert smallest_threshold(cases, 0.95, 0.1) is None


def test_the_promise_holds_in_worlds_whose_truth_is_known() -> None:
    """Over many drawn worlds the exact accuracy of what is kept falls below the target in at most the risk."""
    broken = 0
    rng = random.Random(3)
    for _ in range(150):
        cases = []
        for index in range(200):
            sure = 0.5 + rng.random() / 2
            gold: Gold = "A" if rng.random() < sure else "B"  # right with the probability that it states
            cases.append(Case(str(index), gold, sure, None, 0.5))
        threshold = fit_rule(cases, Settings(None, target=0.75, risk=0.1)).threshold
        broken += threshold is not None and (threshold + 1) / 2 < 0.75  # mean confidence above the threshold
    assert broken <= 150 * 0.1


def test_folds_hold_what_they_were_not_fitted_on() -> None:
    """Turning the labels of one fold round changes no rule that is applied to it."""
    cases = world(200)
    fold = folds(cases, 10)
    other = [
        case._replace(gold="B" if case.gold == "A" else "A") if f == 0 else case
        for case, f in zip(cases, fold, strict=True)
    ]
    how = Settings("platt", target=0.7)
    before, after = out_of_fold(cases, how), out_of_fold(other, how)
    held = [index for index, f in enumerate(fold) if f == 0]
    assert len(held) == 20
    assert [before[i] for i in held] == [after[i] for i in held]
    assert [o.p for o in before] != [o.p for o in after]


def always_first(cases: Sequence[Case]) -> list[Case]:
    return [case._replace(ab=1.0, ba=0.0) for case in cases]


def longest(cases: Sequence[Case]) -> list[Case]:
    return [case._replace(ab=case.longer, ba=case.longer) for case in cases]


def silent(cases: Sequence[Case]) -> list[Case]:
    return [case._replace(ab=None) if int(case.id[1:]) % 2 == 0 else case for case in cases]


@pytest.mark.parametrize(
    ("make", "kinds", "refused"),
    [
        (list, set(), False),
        (inverted, {"below_coin", "below_longer_wins", "wrong_when_agreed"}, True),
        (always_first, {"position"}, True),
        (lambda cases: world(200, bias=0.5), {"position"}, False),
        (longest, {"length"}, True),
        (silent, {"unparsed"}, True),
        (lambda cases: [c._replace(gold=None) for c in cases], {"nothing_scored"}, True),
        (lambda cases: cases[:9], {"few"}, False),
        (lambda cases: inverted(cases[:4]), {"few"}, False),
    ],
    ids=["good", "inverted", "first", "biased", "longest", "silent", "no gold", "few", "few and wrong"],
)
def test_what_speaks_against_a_judge(
    make: Callable[[Sequence[Case]], list[Case]], kinds: set[str], refused: bool
) -> None:
    """Each fault is found by name, and no other; only what is beyond doubt refuses."""
    cases = world(200)
    longer = {"A": 1.0, "B": 0.0}
    fair = [
        c._replace(longer=longer[c.gold or "A"] if i % 5 < 3 else 1 - longer[c.gold or "A"])
        for i, c in enumerate(cases)
    ]
    found = qualify(make(fair))
    assert {finding.kind for finding in found} == kinds
    assert any(finding.refuses for finding in found) == refused
    assert all("\n" not in finding.message for finding in found)


@pytest.mark.slow
def test_a_jury_is_better_than_its_members() -> None:
    """Independent judges pooled by calibrated log-odds beat each of them; a coin among them costs little."""
    good, other = world(600, skill=1.5), world(600, skill=1.5)
    rng = random.Random(9)
    other = [
        case._replace(ab=(p := sigmoid((1 if case.gold == "A" else -1) * 0.75 + rng.gauss(0, 1))), ba=p)
        for case in other
    ]
    coin = [case._replace(ab=(p := rng.random()), ba=p) for case in good]
    found = summarise([("one", good), ("two", other), ("coin", coin)], "jury", Settings())
    assert found.accuracy is not None
    assert all(found.accuracy > (one.accuracy or 1) + 0.01 for one in found.members.values())
    assert not found.qualified or found.members["coin"].qualified


def test_a_jury_member_may_be_silent() -> None:
    """A pair that one judge could not read is decided by the others, and ids need not be in the same order."""
    one, two = world(40), world(40, seed=2)[::-1]
    cases = align([one, two[:20]])
    assert [case.id for case in cases[0]] == [case.id for case in cases[1]] == [case.id for case in one]
    pooled = jury_cases(cases)
    assert all(case.ab is not None and case.ba is None for case in pooled)


@pytest.mark.slow
def test_a_cascade_asks_further_only_what_is_left() -> None:
    """The second judge is asked exactly the pairs that the first did not label; together they keep the promise."""
    cheap, strong = world(800, skill=1.5), world(800, skill=6.0)
    done = run_cascade(align([cheap, strong]), Settings("temperature", target=0.85))
    assert done.tiers[0].asked == 800
    assert done.tiers[1].asked == 800 - done.tiers[0].labelled
    assert 0 < done.tiers[0].labelled < 800 and done.tiers[1].labelled > 0
    found = summarise([("cheap", cheap), ("strong", strong)], "cascade", Settings("temperature", target=0.85))
    assert found.coverage == pytest.approx((done.tiers[0].labelled + done.tiers[1].labelled) / 800)
    assert found.accuracy_at_threshold is not None and found.accuracy_at_threshold >= 0.85
    assert found.saved_share == pytest.approx(done.tiers[0].labelled / 800)
