"""Verdicts → label: symmetric, unscored rather than guessed, and decided by priority."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import Principle
from cai.judge.label import label, margin
from cai.rows import Verdict

probabilities = st.floats(0, 1)
IDS = ("first", "second", "third")


def principle(name: str, weight: float = 1.0, priority: int = 0) -> Principle:
    return Principle(id=name, statement=f"Be {name}.", weight=weight, priority=priority)


def verdicts(name: str, ab: float | None, ba: float | None) -> list[Verdict]:
    def one(order: Literal["ab", "ba"], p: float | None) -> Verdict:
        failure = "unparsed" if p is None else None
        return Verdict(principle=name, order=order, p=p, method="logprobs", failure=failure, call="c")

    return [one("ab", ab), one("ba", ba)]


def swapped(found: list[Verdict]) -> list[Verdict]:
    """The verdicts of the same calls with the names a and b exchanged."""
    other = {"ab": "ba", "ba": "ab"}
    return [
        v.model_copy(update={"order": other[v.order], "p": None if v.p is None else 1 - v.p}) for v in found
    ]


@given(
    st.lists(
        st.tuples(probabilities, probabilities, st.floats(0.1, 9), st.integers(0, 2)), min_size=1, max_size=3
    ),
    st.floats(0.5, 1),
)
def test_swapping_the_candidates_mirrors_the_label(
    rows: list[tuple[float, float, float, int]], threshold: float
) -> None:
    """p becomes 1 - p, and the state stays, whatever the verdicts, weights and priorities."""
    principles = [principle(name, row[2], row[3]) for name, row in zip(IDS, rows, strict=False)]
    found = [v for p, row in zip(principles, rows, strict=True) for v in verdicts(p.id, row[0], row[1])]
    straight, mirrored = label(found, principles, threshold), label(swapped(found), principles, threshold)
    assert straight.p is not None and mirrored.p is not None
    assert mirrored.p == pytest.approx(1 - straight.p, abs=1e-12)
    if abs(max(straight.p, 1 - straight.p) - threshold) > 1e-9 and abs(straight.p - 0.5) > 1e-9:
        assert mirrored.state == straight.state


def test_states() -> None:
    """Each state has its cause."""
    one = [principle("first")]
    sure = label(verdicts("first", 0.9, 0.8), one, 0.7)
    assert sure.p == pytest.approx(0.85) and sure.state == "labelled"
    assert label(verdicts("first", 0.6, 0.6), one, 0.7).state == "below_threshold"
    assert label(verdicts("first", 1.0, 0.45), one, 0.7).state == "inconsistent"
    assert label(verdicts("first", 0.5, 0.5), one, 0.7).state == "tie"


@pytest.mark.parametrize(("ab", "ba"), [(None, None), (0.99, None), (None, 0.01)])
def test_a_missing_order_is_unscored(ab: float | None, ba: float | None) -> None:
    """One readable order is no label, however sure it is."""
    assert label(verdicts("first", ab, ba), [principle("first")], 0.7) == (None, "unparsed")


def test_a_refused_verdict_is_named() -> None:
    """A judge that declines is told apart from one that cannot be read."""
    refused = [v.model_copy(update={"failure": "refused"}) for v in verdicts("first", None, None)]
    assert label(refused, [principle("first")], 0.7) == (None, "refused")


def test_an_unreadable_principle_does_not_dilute_the_others() -> None:
    """The mean is over principles that were read in both orders."""
    found = [*verdicts("first", 0.9, 0.9), *verdicts("second", None, 0.1)]
    assert label(found, [principle("first"), principle("second", 5)], 0.7).p == pytest.approx(0.9)


def test_weights_and_priority() -> None:
    """Weights average within a priority; a sure higher priority decides alone, an unsure one does not."""
    found = [*verdicts("first", 0.9, 0.9), *verdicts("second", 0.1, 0.1)]
    equal = label(found, [principle("first", 3), principle("second", 1)], 0.6)
    assert equal.p == pytest.approx(0.7)
    assert label(found, [principle("first"), principle("second", 9, priority=1)], 0.7).p == pytest.approx(0.1)
    unsure = [*verdicts("first", 0.9, 0.9), *verdicts("second", 0.55, 0.55)]
    assert label(unsure, [principle("first"), principle("second", 1, priority=1)], 0.7).p == pytest.approx(
        0.9
    )


@given(probabilities)
def test_margin_is_finite_and_odd(p: float) -> None:
    """Certain labels keep a finite margin."""
    assert math.isfinite(margin(p))
    assert margin(p) == pytest.approx(-margin(1 - p), abs=1e-6)
