"""Verdicts → label: symmetric, unscored rather than guessed, and decided by priority."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import Principle
from cai.judge.curve import Curve
from cai.judge.label import JudgeRule, Label, label, margin, pool
from cai.rows import Verdict

probabilities = st.floats(0, 1)
IDS = ("first", "second", "third")


def principle(name: str, weight: float = 1.0, priority: int = 0) -> Principle:
    return Principle(id=name, statement=f"Be {name}.", weight=weight, priority=priority)


def verdicts(name: str, ab: float | None, ba: float | None) -> list[Verdict]:
    def one(order: Literal["ab", "ba"], p: float | None) -> Verdict:
        failure = "unparsed" if p is None else None
        return Verdict(
            judge="j", principle=name, order=order, p=p, method="logprobs", failure=failure, calls=("c",)
        )

    return [one("ab", ab), one("ba", ba)]


def swapped(found: list[Verdict]) -> list[Verdict]:
    """The verdicts of the same calls with the names a and b exchanged."""
    other = {"ab": "ba", "ba": "ab"}
    return [
        v.model_copy(update={"order": other[v.order], "p": None if v.p is None else 1 - v.p}) for v in found
    ]


curves = st.builds(
    Curve,
    method=st.sampled_from(["raw", "temperature", "platt", "isotonic"]),
    position_bias=st.floats(-3, 3),
    slope=st.floats(0, 5),
    intercept=st.floats(-2, 2),
    points=st.lists(st.tuples(st.floats(0.5, 1), st.floats(0.4, 1)), min_size=2, max_size=5, unique_by=lambda x: x[0])
    .map(lambda points: tuple(sorted(points))),
)  # fmt: skip
rules = st.builds(JudgeRule, threshold=st.none() | st.floats(0.5, 1), curve=curves)
grid = st.integers(0, 1 << 20).map(lambda k: k / (1 << 20))  # numbers for which 1 - (1 - p) is p itself
cases = st.lists(st.tuples(grid, grid, st.floats(0.1, 9), st.integers(0, 2)), min_size=1, max_size=3)


@given(cases, rules)
def test_swapping_the_candidates_mirrors_the_label(
    rows: list[tuple[float, float, float, int]], rule: JudgeRule
) -> None:
    """p becomes exactly 1 - p and the state stays, whatever the verdicts, weights, priorities and calibration."""
    principles = [principle(name, row[2], row[3]) for name, row in zip(IDS, rows, strict=False)]
    found = [v for p, row in zip(principles, rows, strict=True) for v in verdicts(p.id, row[0], row[1])]
    straight, mirrored = label(found, principles, rule), label(swapped(found), principles, rule)
    assert straight.p is not None and mirrored.p is not None and straight.p_raw is not None
    assert mirrored.state == straight.state
    assert mirrored.p == 1 - straight.p or straight.p == 1 - mirrored.p
    assert mirrored.p_raw in (1 - straight.p_raw, pytest.approx(1 - straight.p_raw, abs=1e-15))


@given(st.lists(st.tuples(cases, rules), min_size=2, max_size=4), rules)
def test_swapping_mirrors_a_jury(
    members: list[tuple[list[tuple[float, float, float, int]], JudgeRule]], rule: JudgeRule
) -> None:
    """The pooled p of a jury is exactly mirrored too, and never surer than its surest member."""
    straight, mirrored = [], []
    for rows, own in members:
        principles = [principle(name, row[2], row[3]) for name, row in zip(IDS, rows, strict=False)]
        found = [v for p, row in zip(principles, rows, strict=True) for v in verdicts(p.id, row[0], row[1])]
        straight.append(label(found, principles, own))
        mirrored.append(label(swapped(found), principles, own))
    one, other = pool(straight, rule), pool(mirrored, rule)
    assert one.p is not None and other.p is not None and one.p_raw is not None
    assert other.state == one.state
    assert other.p == 1 - one.p or one.p == 1 - other.p
    sure = max(abs(member.p - 0.5) for member in straight if member.p is not None)
    assert abs(one.p_raw - 0.5) <= sure + 1e-9


@given(cases, curves)
def test_a_calibration_never_turns_a_verdict_round(
    rows: list[tuple[float, float, float, int]], curve: Curve
) -> None:
    """On one principle without position bias, calibrated and raw p lie on the same side of one half."""
    curve = curve.model_copy(update={"position_bias": 0.0})
    found = label(verdicts("first", rows[0][0], rows[0][1]), [principle("first")], JudgeRule(0.7, curve))
    assert found.p is not None and found.p_raw is not None
    assert (found.p - 0.5) * (found.p_raw - 0.5) >= 0


def test_position_bias_is_taken_off_each_order() -> None:
    """Orders that disagree only by a known bias are consistent, and the bias does not count as confidence."""
    biased = verdicts("first", 0.9, 0.4)  # log-odds 2.2 and -0.4: 0.9 for a, 1.3 for whoever is first
    assert label(biased, [principle("first")], JudgeRule(0.6)).state == "inconsistent"
    found = label(biased, [principle("first")], JudgeRule(0.6, Curve(position_bias=1.3)))
    assert found.state == "labelled"
    assert found.p == pytest.approx(0.71, abs=0.01) and found.p_raw == pytest.approx(0.65)


def test_a_jury_hears_whoever_answered() -> None:
    """Members without a p are left out; where none has one, the pair is unscored; one lone tie decides nothing."""
    sure, silent = Label(0.9, "labelled", 0.9), Label(None, "refused", None)
    found = pool([sure, silent], JudgeRule(0.7))
    assert found.p == pytest.approx(0.9) and found.state == "labelled"
    assert pool([silent, Label(None, "unparsed", None)], JudgeRule()) == (None, "refused", None)
    against = pool([sure, Label(0.1, "labelled", 0.1)], JudgeRule(0.7))
    assert against.state == "tie" and against.p == 0.5
    assert pool([Label(0.8, "inconsistent", 0.8)] * 2, JudgeRule()).state == "inconsistent"


def test_no_threshold_keeps_nothing() -> None:
    """A promise that no threshold keeps means no label, however sure the judge is."""
    found = label(verdicts("first", 1.0, 1.0), [principle("first")], JudgeRule(None))
    assert found == (1.0, "below_threshold", 1.0)


def test_states() -> None:
    """Each state has its cause."""
    one = [principle("first")]
    sure = label(verdicts("first", 0.9, 0.8), one, JudgeRule(0.7))
    assert sure.p == pytest.approx(0.85) and sure.state == "labelled"
    assert label(verdicts("first", 0.6, 0.6), one, JudgeRule(0.7)).state == "below_threshold"
    assert label(verdicts("first", 1.0, 0.45), one, JudgeRule(0.7)).state == "inconsistent"
    assert label(verdicts("first", 0.5, 0.5), one, JudgeRule(0.7)).state == "tie"


@pytest.mark.parametrize(("ab", "ba"), [(None, None), (0.99, None), (None, 0.01)])
def test_a_missing_order_is_unscored(ab: float | None, ba: float | None) -> None:
    """One readable order is no label, however sure it is."""
    assert label(verdicts("first", ab, ba), [principle("first")], JudgeRule(0.7)) == (None, "unparsed", None)


def test_a_refused_verdict_is_named() -> None:
    """A judge that declines is told apart from one that cannot be read."""
    refused = [v.model_copy(update={"failure": "refused"}) for v in verdicts("first", None, None)]
    assert label(refused, [principle("first")], JudgeRule(0.7)) == (None, "refused", None)


def test_an_unreadable_principle_does_not_dilute_the_others() -> None:
    """The mean is over principles that were read in both orders."""
    found = [*verdicts("first", 0.9, 0.9), *verdicts("second", None, 0.1)]
    assert label(found, [principle("first"), principle("second", 5)], JudgeRule(0.7)).p == pytest.approx(0.9)


def test_weights_and_priority() -> None:
    """Weights average within a priority; a sure higher priority decides alone, an unsure one does not."""
    found = [*verdicts("first", 0.9, 0.9), *verdicts("second", 0.1, 0.1)]
    equal = label(found, [principle("first", 3), principle("second", 1)], JudgeRule(0.6))
    assert equal.p == pytest.approx(0.7)
    assert label(
        found, [principle("first"), principle("second", 9, priority=1)], JudgeRule(0.7)
    ).p == pytest.approx(0.1)
    unsure = [*verdicts("first", 0.9, 0.9), *verdicts("second", 0.55, 0.55)]
    assert label(
        unsure, [principle("first"), principle("second", 1, priority=1)], JudgeRule(0.7)
    ).p == pytest.approx(0.9)


@given(probabilities)
def test_margin_is_finite_and_odd(p: float) -> None:
    """Certain labels keep a finite margin."""
    assert math.isfinite(margin(p))
    assert margin(p) == pytest.approx(-margin(1 - p), abs=1e-6)
