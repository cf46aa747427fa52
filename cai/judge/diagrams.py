"""How sure the judge is against how often it is right: the reliability diagram and the risk–coverage curve."""

from __future__ import annotations

from collections.abc import Sequence

from cai.intervals import rate
from cai.judge.cases import Case, hit, orders_of, outcome
from cai.judge.label import JudgeRule
from cai.rows import Row

BINS = 10
GRID = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)

Interval = tuple[float, float]


class Bin(Row):
    """Pairs whose confidence lies in (low, high]: how sure the judge was, and how often it was right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    interval: Interval


class Kept(Row):
    """What a threshold on the judge's own confidence keeps: share, accuracy, share where the longer reply wins."""

    threshold: float
    n: int
    coverage: float
    accuracy: float | None
    interval: Interval | None
    longer_rate: float | None


def reliability(p: Sequence[float], cases: Sequence[Case]) -> tuple[Bin, ...]:
    """The reliability diagram: bins of confidence that hold some pair, from low to high."""
    inside: dict[int, list[tuple[float, float]]] = {}
    for value, case in zip(p, cases, strict=True):
        sure = max(value, 1 - value)
        index = min(int(sure * BINS - 1e-9), BINS - 1)
        inside.setdefault(index, []).append((sure, hit(value, case.gold)))
    found = []
    for index in sorted(inside):
        pairs = inside[index]
        right = rate(sum(hit for _, hit in pairs), len(pairs))
        found.append(
            Bin(
                low=index / BINS,
                high=(index + 1) / BINS,
                n=len(pairs),
                confidence=sum(sure for sure, _ in pairs) / len(pairs),
                accuracy=right.rate or 0.0,
                interval=(right.low or 0.0, right.high or 0.0),
            )
        )
    return tuple(found)


def keeps(cases: Sequence[Case], threshold: float) -> Kept:
    """One point of the risk–coverage curve, on the judge's own confidences."""
    orders = orders_of(cases)
    found = [(outcome(c, JudgeRule(threshold), orders), c) for c in cases]
    kept = [(o.p, c) for o, c in found if o.kept and o.p is not None]
    right = rate(sum(hit(p, c.gold) for p, c in kept), len(kept))
    return Kept(
        threshold=threshold,
        n=len(kept),
        coverage=len(kept) / len(cases) if cases else 0.0,
        accuracy=right.rate,
        interval=interval(right.low, right.high),
        longer_rate=mean([longer(p, c) for p, c in kept]),
    )


def longer(p: float, case: Case) -> float:
    """1 where the preferred side of p is the longer reply; a half for no side, or for equal lengths."""
    return 0.5 if p == 0.5 else case.longer if p > 0.5 else 1 - case.longer


def interval(low: float | None, high: float | None) -> Interval | None:
    """Both bounds, or None."""
    return None if low is None or high is None else (low, high)


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None
