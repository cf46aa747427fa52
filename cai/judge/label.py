"""From verdicts to a label: pure functions, in which swapping the two candidates gives exactly 1 - p.

Orders are averaged per principle, principles by weight; a principle of higher priority decides before
lower ones are heard. A verdict that could not be read is left out, and where none is left the pair is
unscored: it gets a state, never a number. A jury pools the log-odds of its members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from cai.constitution import Principle
from cai.judge.curve import RAW, Curve, calibrated, debiased, log_odds, offset_of, probability
from cai.rows import JudgmentState, Verdict


class JudgeRule(NamedTuple):
    """How answers become a label. `threshold`: smallest max(p, 1-p) that is kept; None keeps nothing."""

    threshold: float | None = 0.7
    curve: Curve = RAW


class Label(NamedTuple):
    """`p`: calibrated probability that candidate a is better; None where the state leaves the pair unscored.

    `p_raw`: the same before the calibration, as the judge said it.
    """

    p: float | None
    state: JudgmentState
    p_raw: float | None


class Heard(NamedTuple):
    """A principle that was read in both orders, as probabilities that a is better."""

    principle: Principle
    ab: float
    ba: float


def label(verdicts: Sequence[Verdict], principles: Sequence[Principle], rule: JudgeRule) -> Label:
    """Combine all verdicts of one judge on one pair."""
    heard = heard_in_both_orders(verdicts, principles)
    if not heard:
        return _unscored(["refused" if any(v.failure == "refused" for v in verdicts) else "unparsed"])
    for priority in sorted({one.principle.priority for one in heard}, reverse=True):
        first = _combine([one for one in heard if one.principle.priority == priority], rule)
        if first.state == "labelled":
            return first
    return _combine(heard, rule)


def heard_in_both_orders(verdicts: Sequence[Verdict], principles: Sequence[Principle]) -> list[Heard]:
    """The principles whose two verdicts could both be read."""
    found: list[Heard] = []
    for principle in principles:
        orders = {v.order: v.p for v in verdicts if v.principle == principle.id and v.p is not None}
        if len(orders) == 2:
            found.append(Heard(principle, orders["ab"], orders["ba"]))
    return found


def mean_orders(heard: Sequence[Heard]) -> tuple[float, float]:
    """P(a better) with a shown first and with b shown first: means over the principles by weight."""
    weights = [one.principle.weight for one in heard]
    return (
        probability(_mean([one.ab - 0.5 for one in heard], weights)),
        probability(_mean([one.ba - 0.5 for one in heard], weights)),
    )


def pool(members: Sequence[Label], rule: JudgeRule) -> Label:
    """The label of a jury: the mean log-odds of the members that have a p, and a curve over that.

    The mean (a logarithmic opinion pool) is never surer than its surest member, so judges that err together
    do not talk one another up; the curve, fitted on labelled pairs, undoes what the mean is too careful about.
    """
    scored = [member for member in members if member.p is not None]
    if not scored:
        return _unscored([member.state for member in members])
    mean = math.fsum(log_odds(m.p - 0.5) for m in scored if m.p is not None) / len(scored)
    consistent = any(member.state != "inconsistent" for member in scored)
    return _decide(offset_of(mean), offset_of(mean), consistent, rule)


def _unscored(states: Sequence[JudgmentState]) -> Label:
    return Label(None, "refused" if "refused" in states else "unparsed", None)


def _combine(heard: Sequence[Heard], rule: JudgeRule) -> Label:
    weights = [one.principle.weight for one in heard]
    ab = _mean([debiased(rule.curve, one.ab, "ab") for one in heard], weights)
    ba = _mean([debiased(rule.curve, one.ba, "ba") for one in heard], weights)
    raw = _mean([((one.ab - 0.5) + (one.ba - 0.5)) / 2 for one in heard], weights)
    return _decide((ab + ba) / 2, raw, ab * ba >= 0, rule)


def _mean(offsets: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(w * d for d, w in zip(offsets, weights, strict=True)) / math.fsum(weights)


def _decide(offset: float, raw: float, consistent: bool, rule: JudgeRule) -> Label:
    p = probability(calibrated(rule.curve, offset))
    if not consistent:
        return Label(p, "inconsistent", probability(raw))
    if offset == 0:
        return Label(p, "tie", probability(raw))
    kept = rule.threshold is not None and max(p, 1 - p) >= rule.threshold and p != 0.5
    return Label(p, "labelled" if kept else "below_threshold", probability(raw))


def margin(p: float) -> float:
    """Log-odds of a probability, clamped to ±log((1 - 1e-6) / 1e-6) so that certainty stays a finite number."""
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))
