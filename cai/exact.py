"""Exact tests and bounds of counts, from scipy's special functions.

`scipy.stats` has the same under other names, but importing it takes more time and memory than a whole small run.
Tests hold these against it.
"""

from __future__ import annotations

from typing import Any


def binomial_cdf(successes: int, n: int, p: float) -> float:
    """Probability of at most `successes` of `n` at a rate of `p`."""
    from scipy.special import bdtr

    return float(bdtr(successes, n, p))


def lower_bound(successes: int, n: int, risk: float) -> float:
    """The rate that `successes` of `n` prove: the truth is below it with a probability of at most `risk`.

    Clopper and Pearson 1934, one-sided.
    """
    from scipy.special import betaincinv

    return float(betaincinv(successes, n - successes + 1, risk)) if successes else 0.0


def fisher_p(a: int, b: int, c: int, d: int) -> float:
    """Two-sided p of Fisher's exact test of the table [[a, b], [c, d]]: all tables no likelier than this one."""
    import numpy
    from scipy.special import betaln

    first, second, left = a + b, c + d, a + c
    if not (first and second and left and b + d):
        return 1.0
    possible = numpy.arange(max(0, left - second), min(first, left) + 1)

    def choose(n: int, k: Any) -> Any:
        return -betaln(1 + n - k, 1 + k) - numpy.log(n + 1)

    log_p = choose(first, possible) + choose(second, left - possible)
    log_p -= numpy.logaddexp.reduce(log_p)
    observed = log_p[a - possible[0]]
    return min(1.0, float(numpy.exp(log_p[log_p <= observed + 1e-7]).sum()))
