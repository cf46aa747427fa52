"""Exact tests and bounds, against scipy's."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import beta, binom, fisher_exact

from cai.exact import binomial_cdf, fisher_p, lower_bound

counts = st.integers(0, 400)


@given(counts, counts, st.floats(0.01, 0.99))
def test_binomial(x: int, y: int, p: float) -> None:
    """The distribution function of scipy.stats, whose far tail is itself good to some eight digits."""
    assert binomial_cdf(x, x + y, p) == pytest.approx(binom.cdf(x, x + y, p), rel=1e-6, abs=1e-300)


@given(counts, counts, st.floats(0.001, 0.5))
def test_lower_bound(right: int, wrong: int, risk: float) -> None:
    """The beta quantile; nothing right proves nothing."""
    wanted = beta.ppf(risk, right, wrong + 1) if right else 0.0
    assert lower_bound(right, right + wrong, risk) == pytest.approx(wanted, rel=1e-9)


@given(counts, counts, counts, counts)
@example(0, 0, 3, 4)
@example(10**6, 10**6 + 900, 10**6, 10**6)
@example(3, 3, 3, 3)
def test_fisher(a: int, b: int, c: int, d: int) -> None:
    """The two-sided p of scipy.stats, large tables included."""
    wanted = float(fisher_exact([[a, b], [c, d]]).pvalue)
    assert fisher_p(a, b, c, d) == pytest.approx(wanted, rel=1e-6, abs=1e-12)
