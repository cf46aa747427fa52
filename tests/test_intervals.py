"""Intervals against published values, and the properties that any interval of a rate must have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.intervals import Difference, Rate, difference, rate

OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_newcombe_table_1(successes: int, n: int, low: float, high: float) -> None:
    """The four examples of Newcombe 1998, Stat. Med. 17:857, table I, method 3."""
    result = rate(successes, n)
    assert result.low == pytest.approx(low, abs=5e-5)
    assert result.high == pytest.approx(high, abs=5e-5)


def paired(both: int, only_a: int, only_b: int, neither: int) -> Difference:
    """The difference of a 2×2 table of paired outcomes."""
    table = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b
    table += [(False, False)] * neither
    return difference([a for a, _ in table], [b for _, b in table])


def test_paired_difference_matches_fagerland() -> None:
    """Airway hyper-responsiveness, Fagerland, Lydersen, Laake 2014, Stat. Med. 33:2850, Newcombe's."""
    result = paired(1, 1, 7, 12)
    assert result.difference == pytest.approx(-6 / 21)
    assert result.low == pytest.approx(-0.507, abs=5e-4)
    assert result.high == pytest.approx(-0.026, abs=5e-4)
    assert result.clear


def test_no_rows_is_no_rate() -> None:
    """An empty set has no rate, not 0 and not 1."""
    assert rate(0, 0) == Rate(None, None, None, 0)
    assert difference([], []) == Difference(None, None, None, 0)
    assert not difference([], []).clear


def test_impossible_counts_are_refused() -> None:
    """More successes than rows, negative counts and unpaired outcomes are the caller's mistakes."""
    for successes, n in ((3, 2), (-1, 2), (0, -1)):
        with pytest.raises(ValueError, match="is not a rate"):
            rate(successes, n)
    with pytest.raises(ValueError, match="shorter"):
        difference([True, False], [True])


@given(st.integers(1, 5000), st.data())
def test_interval_contains_the_rate_and_shrinks_with_n(n: int, data: st.DataObject) -> None:
    """0 ≤ low ≤ rate ≤ high ≤ 1, and ten times the rows at the same rate give a narrower interval."""
    successes = data.draw(st.integers(0, n))
    few, many = rate(successes, n), rate(10 * successes, 10 * n)
    assert few.low is not None and few.rate is not None and few.high is not None
    assert many.low is not None and many.high is not None
    assert 0 <= few.low <= few.rate <= few.high <= 1
    assert many.high - many.low < few.high - few.low


@given(st.integers(1, 500), st.data())
def test_failures_mirror_successes(n: int, data: st.DataObject) -> None:
    """The interval of the complement is the complement of the interval."""
    successes = data.draw(st.integers(0, n))
    one, other = rate(successes, n), rate(n - successes, n)
    assert one.low is not None and other.high is not None
    assert one.low == pytest.approx(1 - other.high, abs=1e-12)


@given(OUTCOMES)
def test_difference_contains_itself_and_is_antisymmetric(outcomes: list[tuple[bool, bool]]) -> None:
    """−1 ≤ low ≤ difference ≤ high ≤ 1, and swapping the sides flips the sign."""
    a, b = [x for x, _ in outcomes], [y for _, y in outcomes]
    one, other = difference(a, b), difference(b, a)
    assert one.low is not None and one.difference is not None and one.high is not None
    assert other.low is not None
    assert -1 <= one.low <= one.difference <= one.high <= 1
    assert one.high == pytest.approx(-other.low)


@given(OUTCOMES)
def test_equal_outcomes_differ_by_nothing(outcomes: list[tuple[bool, bool]]) -> None:
    """Against itself a series differs by 0, and never clearly."""
    a = [x for x, _ in outcomes]
    result = difference(a, a)
    assert result.difference == 0
    assert not result.clear


def test_pairing_narrows_the_interval() -> None:
    """The same two rates tell more apart when the outcomes agree prompt by prompt."""
    agreeing, crossed = paired(50, 10, 0, 40), paired(20, 40, 30, 10)
    assert agreeing.difference == crossed.difference == pytest.approx(0.1)
    assert agreeing.clear and not crossed.clear
