"""From verdicts to a label: pure functions, in which swapping the two candidates gives exactly 1 - p.

Orders are averaged per principle, principles by weight; a principle of higher priority decides before
lower ones are heard. A verdict that could not be read is left out, and where none is left the pair is
unscored: it gets a state, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from cai.constitution import Principle
from cai.rows import JudgmentState, Verdict


class Label(NamedTuple):
    """`p`: probability that candidate a is better; None where the state leaves the pair unscored."""

    p: float | None
    state: JudgmentState


def label(verdicts: Sequence[Verdict], principles: Sequence[Principle], threshold: float) -> Label:
    """Combine all verdicts on one pair. `threshold`: smallest max(p, 1-p) that is a label."""
    both: dict[str, tuple[float, float]] = {}
    for principle in principles:
        orders = {v.order: v.p for v in verdicts if v.principle == principle.id and v.p is not None}
        if len(orders) == 2:
            both[principle.id] = (orders["ab"], orders["ba"])
    if not both:
        refused = any(v.failure == "refused" for v in verdicts)
        return Label(None, "refused" if refused else "unparsed")
    heard = [p for p in principles if p.id in both]
    for priority in sorted({p.priority for p in heard}, reverse=True):
        tier = [p for p in heard if p.priority == priority]
        first = _combine([both[p.id] for p in tier], [p.weight for p in tier], threshold)
        if first.state == "labelled":
            return first
    return _combine([both[p.id] for p in heard], [p.weight for p in heard], threshold)


def _combine(orders: Sequence[tuple[float, float]], weights: Sequence[float], threshold: float) -> Label:
    total = math.fsum(weights)
    ab = math.fsum(w * p[0] for p, w in zip(orders, weights, strict=True)) / total
    ba = math.fsum(w * p[1] for p, w in zip(orders, weights, strict=True)) / total
    p = (ab + ba) / 2
    if (ab - 0.5) * (ba - 0.5) < 0:
        return Label(p, "inconsistent")
    if p == 0.5:
        return Label(p, "tie")
    return Label(p, "labelled" if max(p, 1 - p) >= threshold else "below_threshold")


def margin(p: float) -> float:
    """Log-odds of a probability, clamped to ±log((1 - 1e-6) / 1e-6) so that certainty stays a finite number."""
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))
