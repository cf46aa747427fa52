"""When a test of a principle passes, seen from its better reply; what several judges add up to."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.judge.passes import DRAWN, passes, together
from cai.rows import LabelledPair, Recorded

Gold = Literal["A", "B", "tie"]
answers = st.none() | st.floats(0, 1)


def row(
    gold: Gold | None = "A",
    ab: float | None = 0.9,
    ba: float | None = 0.8,
    *,
    name: str = "kind/0",
    principle: str | None = "kind",
    judge: str = "toy",
) -> Recorded:
    return Recorded(
        id=name, prompt="hi", a="x", b="y", gold=gold, principle=principle, judge=judge, p_a_ab=ab, p_a_ba=ba
    )


@pytest.mark.parametrize(
    ("ab", "ba", "failure"),
    [
        (0.9, 0.51, None),
        (0.1, 0.2, "wrong"),
        (0.9, 0.1, "inconsistent"),
        (0.1, 0.9, "inconsistent"),
        (0.5, 0.9, "tie"),
        (0.2, 0.5, "tie"),
        (None, 0.9, "unread"),
        (0.9, None, "unread"),
    ],
)
def test_a_test_passes_in_both_orders_or_fails_by_name(
    ab: float | None, ba: float | None, failure: str | None
) -> None:
    """Preferred in both orders, nothing less; one order alone is not enough."""
    (found,) = passes([row("A", ab, ba)])
    assert [test.failure for test in found.checked] == [failure]
    assert (found.passed, found.rate) == ((1, 1.0) if failure is None else (0, 0.0))
    assert found.failed == (() if failure is None else ("kind/0",))


@given(answers, answers)
def test_it_does_not_matter_which_side_the_better_reply_is_on(ab: float | None, ba: float | None) -> None:
    """Swapping a and b, gold with them, is the same test: the same p of the better one in the same places."""
    (one,) = passes([row("A", ab, ba)])
    swapped = [None if p is None else 1 - p for p in (ba, ab)]
    (other,) = passes([row("B", *swapped)])
    for left, right in zip(one.checked, other.checked, strict=True):
        assert left.p_first == pytest.approx(right.p_first) and left.p_second == pytest.approx(right.p_second)
    if ab is not None and ba is not None and min(abs(ab - 0.5), abs(ba - 0.5)) > 1e-9:
        assert one.passed == other.passed == (ab > 0.5 and ba > 0.5)


def test_principles_are_counted_apart_and_nothing_is_lost() -> None:
    """Order of appearance; a lost pair is a failed test with its reason; ties in the gold are skipped and counted."""
    lost = LabelledPair(id="kind/1", prompt="why", a="same", b="same", gold="B", principle="kind")
    rows = [
        row("A", 0.9, 0.7),
        row("B", 0.2, 0.4, name="honest/0", principle="honest"),
        row("tie", name="t"),
        row(None, name="n"),
        row("A", 0.2, 0.2, name="d", principle=None),
        row(None, name="u", principle="unsure"),
    ]
    kind, honest, drawn, unsure = passes(rows, [(lost, "identical")])
    assert (kind.principle, kind.tests, kind.passed, kind.skipped, kind.rate) == ("kind", 2, 1, 2, 0.5)
    assert kind.mean_p == pytest.approx(0.8)
    assert kind.checked[1].model_dump() == {
        "id": "kind/1", "prompt": "why", "p_first": None, "p_second": None, "failure": "identical",
    }  # fmt: skip
    assert honest.rate == 1.0 and honest.mean_p == pytest.approx(0.7)
    assert (drawn.principle, drawn.failed) == (DRAWN, ("d",))
    assert (unsure.tests, unsure.rate, unsure.mean_p, unsure.skipped) == (0, None, None, 1)


def test_a_jury_is_pooled_order_by_order() -> None:
    """Symmetric answers cancel out; one that was not read is left out; none read is unread."""
    first = [row(ab=0.9, ba=0.9), row(ab=0.8, ba=None, name="kind/1"), row(ab=None, ba=None, name="kind/2")]
    second = [
        row(ab=0.1, ba=0.9, judge="b"),
        row(ab=0.8, ba=0.7, name="kind/1", judge="b"),
        row(ab=None, ba=None, name="kind/2", judge="b"),
    ]
    found = together([first, second], "jury", 0.7)
    assert [r.judge for r in found] == ["toy + b"] * 3
    assert [r.p_a_ab for r in found] == [pytest.approx(0.5), pytest.approx(0.8), None]
    assert [r.p_a_ba for r in found] == [pytest.approx(0.9), pytest.approx(0.7), None]


def test_a_cascade_is_the_first_judge_that_would_label() -> None:
    """Sure and consistent decides; else the next one; where none is sure, the last that was read."""
    cheap = [
        row(ab=0.9, ba=0.9),
        row(ab=0.6, ba=0.6, name="unsure"),
        row(ab=0.99, ba=0.01, name="biased"),
        row(ab=0.6, ba=0.6, name="alone"),
    ]
    strong = [
        row(ab=0.1, ba=0.1, judge="s"),
        row(ab=0.1, ba=0.1, name="unsure", judge="s"),
        row(ab=0.6, ba=0.55, name="biased", judge="s"),
        row(ab=None, ba=0.9, name="alone", judge="s"),
    ]
    found = together([cheap, strong], "cascade", 0.7)
    assert [r.judge for r in found] == ["toy", "s", "s", "toy"]
