"""What a judge is worth on labelled pairs: every figure that `cai judge` prints, from cases alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from cai.intervals import rate
from cai.judge.cases import Case, hit, offset, scored, side, unscored_reason
from cai.judge.curve import probability
from cai.judge.diagrams import GRID, Bin, Interval, Kept, interval, keeps, longer, mean, reliability
from cai.judge.fit import METHOD, MIN_FIT, Settings, apply, fit_rule, out_of_fold, position_bias
from cai.judge.label import JudgeRule
from cai.judge.qualify import qualify
from cai.rows import Row


class Figures(Row):
    """All figures of one judge (or jury) on labelled pairs; None where the pairs cannot tell.

    `accuracy` takes the mean of the available orders, half a hit where that is on no side; intervals are 95 %
    Wilson. `ece` has 10 equal bins over [0, 1] (Guo et al. 2017), `brier` is the mean squared error of P(a
    better). `longer_rate`: how often the judge takes the longer reply (equal lengths count half). `ece_calibrated`,
    `coverage` and `accuracy_at_threshold` come from rules that were fitted and chosen on other pairs; the last
    two count pairs whose gold is a tie, on which every label is wrong. `threshold` is the one made from all pairs;
    None: none keeps the promise.
    """

    rows: int
    scored: int
    unscored: int
    unscored_reasons: dict[str, int]
    accuracy: float | None
    accuracy_interval: Interval | None
    accuracy_a_first: float | None
    agreement: float | None
    accuracy_when_agreed: float | None
    first_position_rate: float | None
    position_bias: float | None
    ece: float | None
    ece_calibrated: float | None
    brier: float | None
    brier_calibrated: float | None
    longer_rate: float | None
    gold_longer_rate: float | None
    longer_wins_accuracy: float | None
    qualified: bool
    reasons: tuple[str, ...]
    calibration: str | None
    target_accuracy: float | None
    risk: float | None
    threshold: float | None
    coverage: float | None
    accuracy_at_threshold: float | None
    accuracy_at_threshold_interval: Interval | None
    reliability: tuple[Bin, ...]
    risk_coverage: tuple[Kept, ...]


class _Orders(NamedTuple):
    agreement: float | None
    accuracy_when_agreed: float | None
    first_position_rate: float | None
    position_bias: float | None


def figures(cases: Sequence[Case], settings: Settings, rule: JudgeRule | None = None) -> Figures:
    """Every figure of a judge on `cases`; `settings` say how its labels are to be made.

    `rule`: one that was made on other pairs; then nothing is fitted or chosen here.
    """
    usable = [case for case in cases if scored(case)]
    p = [probability(offset(case) or 0.0) for case in usable]
    hits = [hit(value, case.gold) for value, case in zip(p, usable, strict=True)]
    accuracy = rate(sum(hits), len(hits))
    findings = qualify(cases)
    golds = [case for case in cases if case.gold is not None and offset(case) is not None]
    fitted = rule is not None or len(usable) >= MIN_FIT
    if rule is not None:
        fresh, kept = apply(usable, rule), apply(golds, rule)
    else:
        curves = settings._replace(method=settings.method or METHOD, target=None)
        fresh, kept = out_of_fold(usable, curves) if fitted else [], out_of_fold(golds, settings)
    calibrated = [found.p for found in fresh if found.p is not None]
    chosen = [hit(o.p, c.gold) for o, c in zip(kept, golds, strict=True) if o.kept and o.p is not None]
    at = rate(sum(chosen), len(chosen))
    return Figures(
        rows=len(cases),
        scored=len(usable),
        unscored=len(cases) - len(usable),
        unscored_reasons=dict(sorted(Counter(unscored_reason(c) for c in cases if not scored(c)).items())),
        accuracy=accuracy.rate,
        accuracy_interval=interval(accuracy.low, accuracy.high),
        accuracy_a_first=mean([hit(case.ab, case.gold) for case in usable if case.ab is not None]),
        **_orders(cases)._asdict(),
        ece=ece(p, usable),
        ece_calibrated=ece(calibrated, usable) if fitted else None,
        brier=brier(p, usable),
        brier_calibrated=brier(calibrated, usable) if fitted else None,
        longer_rate=mean([longer(value, case) for value, case in zip(p, usable, strict=True)]),
        gold_longer_rate=mean([longer(float(case.gold == "A"), case) for case in usable]),
        longer_wins_accuracy=mean([hit(case.longer, case.gold) for case in usable]),
        qualified=not any(finding.refuses for finding in findings),
        reasons=tuple(finding.message for finding in findings),
        calibration=settings.method if rule is None else rule.curve.method,
        target_accuracy=settings.target,
        risk=settings.risk if settings.target is not None else None,
        threshold=(rule or fit_rule(golds, settings)).threshold,
        coverage=len(chosen) / len(golds) if golds else None,
        accuracy_at_threshold=at.rate,
        accuracy_at_threshold_interval=interval(at.low, at.high),
        reliability=reliability(p, usable),
        risk_coverage=tuple(keeps(golds, threshold) for threshold in GRID),
    )


def _orders(cases: Sequence[Case]) -> _Orders:
    """What only both orders tell; None where no pair has both."""
    both = [(c, c.ab - 0.5, c.ba - 0.5) for c in cases if c.ab is not None and c.ba is not None]
    agreed = [case for case, ab, ba in both if ab * ba > 0 or ab == ba == 0]
    sided = [case for case in agreed if scored(case) and case.ab != 0.5]
    first = [(side(ab) + side(-ba)) / 2 for _, ab, ba in both]
    return _Orders(
        agreement=len(agreed) / len(both) if both else None,
        accuracy_when_agreed=mean([hit(case.ab, case.gold) for case in sided if case.ab is not None]),
        first_position_rate=mean(first),
        position_bias=position_bias(cases) if len(both) >= MIN_FIT else None,
    )


def ece(p: Sequence[float], cases: Sequence[Case]) -> float | None:
    """Expected calibration error: |confidence − accuracy| of each bin, weighted by its share of the pairs."""
    bins = reliability(p, cases)
    return sum(b.n * abs(b.confidence - b.accuracy) for b in bins) / len(cases) if cases else None


def brier(p: Sequence[float], cases: Sequence[Case]) -> float | None:
    """Mean squared difference between P(a better) and what the gold says."""
    return mean([(value - float(case.gold == "A")) ** 2 for value, case in zip(p, cases, strict=True)])
