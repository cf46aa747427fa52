"""From what a judge answered to a calibrated probability: the curve that a calibration fits and a run applies.

Everything is computed on the offset from one half (and log-odds, which are odd in it), so that swapping the
two candidates turns p into exactly 1 - p. A curve may make a judge less sure; it never turns a verdict round.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Literal

from pydantic import Field, FiniteFloat

from cai.rows import Row

Method = Literal["temperature", "platt", "isotonic"]
TIE_BREAK = 1e-9  # keeps every curve strictly rising, so that it never changes which of two pairs is surer
ROUNDING = 1e-15
SUREST = 0.5 - 1e-4  # log-odds of a hard 0 or 1 are taken as those of 0.0001 and 0.9999


class Curve(Row):
    """What a calibration learned about one judge. The default changes nothing.

    `position_bias`: log-odds that the judge gives to the reply shown first, taken off each answer before the
    two orders are averaged. Then, on the mean: `temperature` and `platt` map the log-odds z of the confidence to
    sigmoid(slope z + intercept), `isotonic` interpolates between `points` of (confidence, accuracy).
    """

    method: Literal["raw", "temperature", "platt", "isotonic"] = "raw"
    position_bias: FiniteFloat = 0.0
    slope: FiniteFloat = Field(1.0, ge=0)
    intercept: FiniteFloat = 0.0
    points: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()


RAW = Curve()


def log_odds(offset: float) -> float:
    """Log-odds of the probability 0.5 + offset; an odd function, clamped where the probability is (near) 0 or 1."""
    return 2 * math.atanh(2 * min(max(offset, -SUREST), SUREST))


def offset_of(log_odds: float) -> float:
    """The inverse of `log_odds`: how far the probability is from one half."""
    return math.tanh(log_odds / 2) / 2


def probability(offset: float) -> float:
    """0.5 + offset, such that the negated offset gives exactly one minus this."""
    return 0.5 + offset if offset >= 0 else 1 - (0.5 - offset)


def debiased(curve: Curve, p: float, order: Literal["ab", "ba"]) -> float:
    """The offset of one answer, P(a better) = `p`, without the advantage of the reply that was shown first."""
    if curve.position_bias == 0:
        return p - 0.5
    advantage = curve.position_bias if order == "ab" else -curve.position_bias
    return offset_of(log_odds(p - 0.5) - advantage)


def calibrated(curve: Curve, offset: float) -> float:
    """The calibrated offset of a mean offset: same sign (or zero), other size, same order of sizes."""
    if curve.method == "raw" or offset == 0:
        return offset
    size = abs(offset)
    if curve.method == "isotonic":
        sure = _interpolated(curve.points, 0.5 + size) - 0.5
    else:
        sure = offset_of(curve.slope * log_odds(size) + curve.intercept)
    return math.copysign(min(max(sure, 0.0) + TIE_BREAK * size, 0.5), offset)


def cut_at(curve: Curve, confidence: float) -> float:
    """The calibrated threshold that keeps what the uncalibrated `confidence` keeps, whatever the last bit says."""
    if curve.method == "raw":
        return confidence
    return 0.5 + calibrated(curve, confidence - 0.5) - ROUNDING


def _interpolated(points: tuple[tuple[float, float], ...], x: float) -> float:
    """Linear between points in order of x, constant beyond the first and the last."""
    after = bisect_right(points, x, key=lambda point: point[0])
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[after - 1], points[after]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
