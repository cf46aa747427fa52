"""Labelled pairs as the figures see them: what the judge said in each order, which reply is better, which longer.

Pure: files are read in `cai.judges.labelled`. A case without gold, or without a readable verdict, is unscored and
counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from cai.judge.curve import RAW, Curve, calibrated, debiased, probability
from cai.judge.label import JudgeRule

Order = Literal["ab", "ba"]
Gold = Literal["A", "B", "tie"]


class Case(NamedTuple):
    """One labelled pair. `ab`/`ba`: P(a better) with a, with b shown first; None: unreadable or not asked.

    `longer`: 1 where a is the longer reply (in characters), 0 where b is, 0.5 where they are equal.
    """

    id: str
    gold: Gold | None
    ab: float | None
    ba: float | None
    longer: float


class Outcome(NamedTuple):
    """What a rule makes of a case. `p`: P(a better), None where no order could be read. `kept`: it is a label."""

    p: float | None
    kept: bool


def orders_of(cases: Sequence[Case]) -> tuple[Order, ...]:
    """The orders that were asked at all."""
    found: list[Order] = ["ab"] if any(case.ab is not None for case in cases) else []
    if any(case.ba is not None for case in cases):
        found.append("ba")
    return tuple(found)


def offset(case: Case, curve: Curve = RAW) -> float | None:
    """How far the mean of the available orders is from one half, before the curve's last step."""
    found = [debiased(curve, p, order) for p, order in _answers(case)]
    return sum(found) / len(found) if found else None


def outcome(case: Case, rule: JudgeRule, orders: Sequence[Order]) -> Outcome:
    """Apply a rule: a label needs every order that was asked, all on one side, and the threshold."""
    mean = offset(case, rule.curve)
    if mean is None:
        return Outcome(None, kept=False)
    answers = _answers(case)
    sides = [debiased(rule.curve, p, order) for p, order in answers]
    agreed = len(answers) == len(orders) and min(sides) * max(sides) >= 0 and mean != 0
    p = probability(calibrated(rule.curve, mean))
    sure = max(p, 1 - p)
    return Outcome(p, agreed and rule.threshold is not None and sure >= rule.threshold and p != 0.5)


def hit(p: float, gold: Gold | None) -> float:
    """1 where p is on the side of the gold, 0.5 where it is on none, 0 where it is wrong; a gold tie is always 0."""
    if gold not in ("A", "B"):
        return 0.0
    return 0.5 if p == 0.5 else float((p > 0.5) == (gold == "A"))


def side(offset: float) -> float:
    """1 where an offset favours its side, 0 where it favours the other, a half for neither."""
    return 0.5 if offset == 0 else float(offset > 0)


def scored(case: Case) -> bool:
    """True where the gold names a better reply and some verdict could be read."""
    return case.gold in ("A", "B") and bool(_answers(case))


def unscored_reason(case: Case) -> str:
    """Why a case is not scored."""
    return "no_gold" if case.gold is None else "gold_tie" if case.gold == "tie" else "unparsed"


def folds(cases: Sequence[Case], count: int) -> list[int]:
    """The fold of each case, by rank of a digest of its id: balanced, and blind to the order of the file."""
    keys = [hashlib.blake2b(case.id.encode("utf-8", "surrogatepass")).digest() for case in cases]
    found = [0] * len(cases)
    for rank, index in enumerate(sorted(range(len(cases)), key=keys.__getitem__)):
        found[index] = rank % count
    return found


def _answers(case: Case) -> list[tuple[float, Order]]:
    orders: tuple[tuple[float | None, Order], ...] = ((case.ab, "ab"), (case.ba, "ba"))
    return [(p, order) for p, order in orders if p is not None]
