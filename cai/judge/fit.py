"""Calibration: a curve and a threshold from labelled pairs, and what they are worth on pairs they never saw.

The curve's last step is fitted on (confidence, was it right), which makes it blind to which reply is a:
temperature (Guo et al. 2017, arXiv 1706.04599), Platt (1999) with his smoothed targets, isotonic (Zadrozny &
Elkan 2002). The position bias is the median of half the difference between the two orders' log-odds: it needs
no labels, and swapping the orders of every pair only changes its sign.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from cai.judge.cases import Case, Outcome, folds, hit, offset, orders_of, outcome, scored
from cai.judge.curve import RAW, Curve, Method, cut_at, log_odds, probability
from cai.judge.label import JudgeRule
from cai.judge.promise import smallest_threshold

FOLDS = 10
MIN_FIT = 20  # fewer scored pairs say nothing about a curve
METHOD: Method = "temperature"


class Settings(NamedTuple):
    """How labels are to be made: `method` None leaves the judge as it is; `target` chooses the threshold."""

    method: Method | None = None
    threshold: float = 0.7
    target: float | None = None
    risk: float = 0.1


def fit_curve(method: Method, cases: Sequence[Case]) -> Curve:
    """A curve for the judge of these cases; RAW where fewer than MIN_FIT of them are scored."""
    usable = [case for case in cases if scored(case)]
    if len(usable) < MIN_FIT:
        return RAW
    bias = Curve(position_bias=position_bias(cases))
    sizes: list[float] = []
    right: list[float] = []
    for case in usable:
        mean = offset(case, bias)
        if mean:  # neither unread nor exactly even
            sizes.append(abs(mean))
            right.append(hit(probability(mean), case.gold))
    if not sizes:
        return RAW
    fitted = _isotonic(sizes, right) if method == "isotonic" else _logistic(method, sizes, right)
    return bias.model_copy(update={"method": method, **fitted})


def position_bias(cases: Sequence[Case]) -> float:
    """Log-odds that the judge gives to the reply shown first; 0 where the cases have one order only."""
    gaps = [
        (log_odds(case.ab - 0.5) - log_odds(case.ba - 0.5)) / 2
        for case in cases
        if case.ab is not None and case.ba is not None
    ]
    return statistics.median(gaps) if len(gaps) >= MIN_FIT else 0.0


def fit_rule(cases: Sequence[Case], settings: Settings, curve: Curve | None = None) -> JudgeRule:
    """Threshold, and (unless given) curve from these cases; a threshold of None where none keeps the promise.

    The threshold is chosen among the judge's own confidences, whose order no curve changes; so the curve, which
    has seen the same labels, cannot spoil the promise. A label on a pair whose gold is a tie counts as wrong.
    """
    if curve is None:
        curve = fit_curve(settings.method, cases) if settings.method else RAW
    if settings.target is None:
        return JudgeRule(settings.threshold, curve)
    chosen = choose(cases, curve, settings.target, settings.risk)
    return JudgeRule(None if chosen is None else cut_at(curve, chosen), curve)


def choose(cases: Sequence[Case], curve: Curve, target: float, risk: float) -> float | None:
    """The smallest uncalibrated confidence that keeps the promise on these cases."""
    orders = orders_of(cases)
    rule = JudgeRule(0.5, Curve(position_bias=curve.position_bias))
    candidates: list[tuple[float, bool]] = []
    for case in cases:
        found = outcome(case, rule, orders)
        if case.gold is not None and found.p is not None:
            sure = max(found.p, 1 - found.p) if found.kept else 0.0
            candidates.append((sure, found.kept and hit(found.p, case.gold) == 1))
    return smallest_threshold(candidates, target, risk)


def out_of_fold(cases: Sequence[Case], settings: Settings) -> list[Outcome]:
    """What becomes of each case under a rule (curve and threshold) that was made without its fold."""
    count = min(FOLDS, len(cases))
    fold = folds(cases, count)
    orders = orders_of(cases)
    rules = [
        fit_rule([case for case, f in zip(cases, fold, strict=True) if f != held], settings)
        for held in range(count)
    ]
    return [outcome(case, rules[f], orders) for case, f in zip(cases, fold, strict=True)]


def apply(cases: Sequence[Case], rule: JudgeRule) -> list[Outcome]:
    """What becomes of each case under one rule."""
    orders = orders_of(cases)
    return [outcome(case, rule, orders) for case in cases]


def _logistic(method: Method, sizes: Sequence[float], right: Sequence[float]) -> dict[str, Any]:
    """Slope (and, for platt, intercept) of P(right) over the log-odds of the confidence."""
    from sklearn.linear_model import LogisticRegression

    good, count = sum(right), len(right)
    high, low = (good + 1) / (good + 2), 1 / (count - good + 2)  # Platt's targets: never quite certain
    z = [[log_odds(size)] for size in sizes]
    targets = [low + (high - low) * r for r in right]
    model = LogisticRegression(C=float("inf"), fit_intercept=method == "platt")
    model.fit(z + z, [1] * count + [0] * count, sample_weight=[*targets, *(1 - t for t in targets)])
    slope, intercept = float(model.coef_[0][0]), float(model.intercept_[0])
    if slope < 0:  # surer means wronger: the confidence is worth nothing, only the mean accuracy is known
        return {"slope": 0.0, "intercept": log_odds(good / count - 0.5)}
    return {"slope": slope, "intercept": intercept if method == "platt" else 0.0}


def _isotonic(sizes: Sequence[float], right: Sequence[float]) -> dict[str, Any]:
    from sklearn.isotonic import IsotonicRegression

    top = (len(right) + 1) / (len(right) + 2)
    model = IsotonicRegression(y_min=0.5, y_max=top).fit([0.5 + size for size in sizes], right)
    points = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
    return {"points": tuple(points)}
