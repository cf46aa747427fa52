"""Rates and differences with 95 % intervals: every rate that the reports print comes from here.

Closed forms that hold for few rows and for rates of 0 or 1: Wilson's score interval for one rate (Wilson
1927; Newcombe 1998, Stat. Med. 17:857, method 3) and Newcombe's square-and-add interval for two rates on the
same prompts (Newcombe 1998, Stat. Med. 17:2635, method 10). Without rows there is no rate: None, never 0.
Differences of means on the same prompts have Student's interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `n` rows in [0, 1] and its interval; all three None where `n` is 0."""

    rate: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """rate(a) − rate(b) over `n` prompts in [−1, 1] and its interval; all three None where `n` is 0.

    Of means, it is in their unit, and one prompt gives it no interval.
    """

    difference: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def clear(self) -> bool:
        """True where the interval leaves 0 out: the rates differ by more than chance explains."""
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high


def rate(successes: float, n: int) -> Rate:
    """Wilson's interval for `successes` of `n`; an undecided row may count as half of one.

    Raises ValueError unless 0 ≤ successes ≤ n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a rate")
    if n == 0:
        return Rate(None, None, None, 0)
    low, high = _wilson(successes, n)
    return Rate(successes / n, low, high, n)


def difference(a: Sequence[bool], b: Sequence[bool]) -> Difference:
    """How much higher a's rate is than b's, where `a[i]` and `b[i]` are outcomes on the same prompt.

    The pairing narrows the interval as far as the outcomes agree. Raises ValueError for unequal lengths.
    """
    pairs = list(zip(a, b, strict=True))
    n = len(pairs)
    if n == 0:
        return Difference(None, None, None, 0)
    both = sum(x and y for x, y in pairs)
    only_a = sum(x and not y for x, y in pairs)
    only_b = sum(y and not x for x, y in pairs)
    phi = _correlation(both, only_a, only_b, n - both - only_a - only_b)
    rate_a, rate_b = (both + only_a) / n, (both + only_b) / n
    low_a, high_a = _wilson(both + only_a, n)
    low_b, high_b = _wilson(both + only_b, n)
    delta = (only_a - only_b) / n
    below = _square_and_add(rate_a - low_a, high_b - rate_b, phi)
    above = _square_and_add(high_a - rate_a, rate_b - low_b, phi)
    return Difference(delta, max(-1.0, delta - below), min(1.0, delta + above), n)


def mean_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """How much higher the mean of a is than b's, where `a[i]` and `b[i]` are of the same prompt.

    Raises ValueError for unequal lengths.
    """
    changes = [x - y for x, y in zip(a, b, strict=True)]
    n = len(changes)
    if n == 0:
        return Difference(None, None, None, 0)
    mean = math.fsum(changes) / n
    if n == 1:
        return Difference(mean, None, None, 1)
    from scipy.special import stdtrit

    variance = math.fsum((change - mean) ** 2 for change in changes) / (n - 1)
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)
    return Difference(mean, mean - half, mean + half, n)


def _wilson(successes: float, n: int) -> tuple[float, float]:
    p, z2 = successes / n, Z_95 * Z_95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At 0 and n the bound is exactly p; elsewhere min and max only undo rounding.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def _correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Phi of the paired outcomes, a positive one lowered by Newcombe's correction; 0 where undefined."""
    n = both + only_a + only_b + neither
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if product == 0:
        return 0.0
    cross = both * neither - only_a * only_b
    return (max(cross - n / 2, 0.0) if cross > 0 else cross) / math.sqrt(product)


def _square_and_add(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))
