"""A threshold that keeps a promise: of the labels kept, at least `target` are right, up to a stated `risk`.

For each threshold the exact binomial (Clopper–Pearson) lower bound of the accuracy of what it keeps is a test of
"the promise does not hold". Many thresholds are tried, and yet the risk is not spent many times over: they are
tested in a fixed order, towards more coverage, until one fails (fixed-sequence testing, as in Jung et al. 2024,
*Trust or Escalate*, arXiv 2407.18370, section 3). Starting at the very surest pairs has no power, because so few
of them cannot prove anything and some judges are worst where they are surest; so two sequences start at a
third and at two thirds of the pairs, with half of the risk each (Angelopoulos et al. 2021, *Learn then Test*,
arXiv 2110.01052, section 3.3). Which pairs a test looks at depends on confidences alone, never on who was right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from cai.exact import lower_bound

STARTS = (1 / 3, 2 / 3)
STEPS = 20  # thresholds tried: each lets through another twentieth of the pairs


def smallest_threshold(cases: Sequence[tuple[float, bool]], target: float, risk: float) -> float | None:
    """The smallest threshold that keeps the promise, None where none does.

    Chosen on (confidence, right) of labelled pairs; a confidence of 0 means that the pair is no label anyhow.
    Deterministic, and blind to the order of `cases`; pairs of equal confidence are let through together.
    """
    ranked = sorted(cases, key=lambda case: -case[0])
    right = list(accumulate(case[1] for case in ranked))
    total = sum(1 for case in ranked if case[0] > 0)
    kept: list[float] = []
    for start in STARTS:
        for step in range(math.ceil(start * STEPS), STEPS + 1):
            n = _through_ties(ranked, math.ceil(total * step / STEPS))
            if n == 0 or lower_bound(right[n - 1], n, risk / len(STARTS)) < target:
                break
            kept.append(ranked[n - 1][0])
    return min(kept, default=None)


def _through_ties(ranked: Sequence[tuple[float, bool]], n: int) -> int:
    """The first count from n on that splits no group of equal confidences."""
    while 0 < n < len(ranked) and ranked[n][0] == ranked[n - 1][0]:
        n += 1
    return n
