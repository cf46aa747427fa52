"""How well a share is known from a sample, exactly: drawn without replacement from so many rows, or from a process.

Of a run's rows there are finitely many, and looking at more of them leaves fewer to be wrong about. So the bounds
invert the hypergeometric tails (as Clopper and Pearson 1934 do the binomial ones): they hold the true share of all
rows in at least 95 % of the samples, whatever that share is, for any number of rows. They are a little wider than
Wilson's, and shrink to nothing when every row has been looked at.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

RISK = 0.05


class Bounds(NamedTuple):
    """A share in [0, 1] and its 95 % bounds."""

    rate: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """How far the truth may be from the rate, on the wider side."""
        return max(self.rate - self.low, self.high - self.rate)


def bounds(successes: int, n: int, size: int | None = None) -> Bounds:
    """What `successes` of `n` rows say about all `size` rows; `size` None: about rows without end.

    Raises ValueError unless 0 ≤ successes ≤ n ≤ size and n > 0.
    """
    if not 0 <= successes <= n or n == 0 or (size is not None and n > size):
        raise ValueError(f"{successes} of {n} of {size} is no share")
    rate = successes / n
    if size is None:
        return Bounds(rate, _endless_low(successes, n), 1 - _endless_low(n - successes, n))
    low = _fewest(successes, n, size)
    high = size - _fewest(n - successes, n, size)
    return Bounds(rate, low / size, high / size)


@functools.lru_cache(maxsize=64)
def sample_size(margin: float, size: int, expected: float = 0.5) -> int:
    """How many of `size` rows to look at so that a share of `expected` is known to ±`margin`; at 0.5 any share is.

    Raises ValueError unless 0 < margin < 1, 0 ≤ expected ≤ 1 and size > 0.
    """
    if not 0 < margin < 1 or not 0 <= expected <= 1 or size < 1:
        raise ValueError(f"±{margin} at {expected} of {size} rows cannot be planned")
    few, many = 0, min(size, int(1.5 / margin**2) + 10)  # enough of endless rows, and all rows always are
    while many - few > 1:
        middle = (few + many) // 2
        if bounds(round(expected * middle), middle, size).margin <= margin:
            many = middle
        else:
            few = middle
    return many


def _endless_low(successes: int, n: int) -> float:
    from scipy.special import betaincinv

    return float(betaincinv(successes, n - successes + 1, RISK / 2)) if successes else 0.0


def _fewest(successes: int, n: int, size: int) -> int:
    """The smallest number of right rows among all with which so many successes are no surprise."""
    low, high = successes, size - (n - successes)
    while low < high:
        middle = (low + high) // 2
        if _at_least(successes, n, middle, size) > RISK / 2:
            high = middle
        else:
            low = middle + 1
    return low


def _at_least(successes: int, n: int, right: int, size: int) -> float:
    """Probability of at least so many successes in `n` rows drawn of `size`, of which so many are `right`."""
    import numpy
    from scipy.special import gammaln

    most = min(n, right)
    if successes > most:
        return 0.0
    least = max(0, n - (size - right))
    if successes <= least:
        return 1.0
    k = numpy.arange(successes, most + 1)

    def log_choose(of: int, taken: Any) -> Any:
        return gammaln(of + 1) - gammaln(taken + 1) - gammaln(of - taken + 1)

    log_p = log_choose(right, k) + log_choose(size - right, n - k) - log_choose(size, n)
    return float(numpy.exp(log_p).sum())
