"""What the confidence filter saw, counted in one pass over the judgments: integers only, no row is kept.

A judgment counts as `before` where its p prefers a side, as though every such label were taken, and as `after`
where it is a label. The names a and b carry no meaning here: exchanging them changes no count, and neither does
the order of the rows.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from cai.rows import Judgment, JudgmentState, Verdict

Group = Literal["all", "kind", "source", "tag", "principle"]
Fate = Literal["kept", "not_kept", "inconsistent"]
BINS = 20  # of confidence, over [0.5, 1]
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RATIO_STEPS = 20  # bins a doubling: a median ratio is right to 2 %


class Cell(NamedTuple):
    """Judgments that count alike. `longer`: 2 where the preferred side has more characters, 1 for as many, else 0."""

    group: Group
    value: str
    kept: bool
    longer: int


class Tally(NamedTuple):
    """All counters. `chars`: by (kept, preferred side), their sum; `ratios`: by (kept, bin of log2 preferred / other);
    `fates`: by (bin of confidence, fate); `passing`: by (how many THRESHOLDS the confidence reaches, `longer`), of
    consistent judgments that prefer a side; `position`: what single verdicts tell.
    """

    states: Counter[JudgmentState]
    cells: Counter[Cell]
    chars: Counter[tuple[bool, bool]]
    ratios: Counter[tuple[bool, int]]
    fates: Counter[tuple[int, Fate]]
    passing: Counter[tuple[int, int]]
    position: Counter[Literal["verdicts", "first", "heard", "agreed"]]


def tally(judgments: Iterable[Judgment]) -> Tally:
    """Count all judgments; memory grows with distinct sources, tags and principles only."""
    found = Tally(Counter(), Counter(), Counter(), Counter(), Counter(), Counter(), Counter())
    for judgment in judgments:
        found.states[judgment.state] += 1
        _position(found, judgment.verdicts)
        if judgment.p is None:
            continue
        sure, kept = max(judgment.p, 1 - judgment.p), judgment.state == "labelled"
        fate: Fate = "kept" if kept else "inconsistent" if judgment.state == "inconsistent" else "not_kept"
        # a hair more, so that 0.7 falls into the bin that begins there
        found.fates[min(int((sure - 0.5) * 2 * BINS + 1e-9), BINS - 1), fate] += 1
        if judgment.p != 0.5:
            _side(found, judgment, sure, kept)
    return found


def _side(found: Tally, judgment: Judgment, sure: float, kept: bool) -> None:
    """Count a judgment that prefers a side."""
    better, worse = judgment.a, judgment.b
    if judgment.p is not None and judgment.p < 0.5:
        better, worse = worse, better
    chosen, other = len(better.text), len(worse.text)
    longer = 1 + (chosen > other) - (chosen < other)
    for group, value in _values(judgment, f"{better.kind} over {worse.kind}"):
        found.cells[Cell(group, value, kept, longer)] += 1
    found.chars[kept, True] += chosen
    found.chars[kept, False] += other
    found.ratios[kept, round(RATIO_STEPS * math.log2(max(chosen, 1) / max(other, 1)))] += 1
    if judgment.state != "inconsistent":
        found.passing[bisect_right(THRESHOLDS, sure), longer] += 1


def _values(judgment: Judgment, kind: str) -> Iterator[tuple[Group, str]]:
    """Every group a judgment belongs to; of tags and principles there may be several, or none."""
    yield "all", ""
    yield "kind", kind
    yield "source", _name(judgment.prompt.source)
    yield from (("tag", tag) for tag in {_name(tag) for tag in judgment.prompt.tags})
    yield from (("principle", name) for name in {_name(v.principle) for v in judgment.verdicts})


def _name(text: str) -> str:
    """A name that JSON can carry: lone surrogates replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _position(found: Tally, verdicts: Iterable[Verdict]) -> None:
    """`first` counts halves: 2 for a verdict that the first shown reply won, 1 for one on no side."""
    orders: dict[tuple[str, str], dict[str, float]] = {}
    for verdict in verdicts:
        if verdict.p is None:
            continue
        offset = verdict.p - 0.5
        toward_first = offset if verdict.order == "ab" else -offset
        found.position["verdicts"] += 1
        found.position["first"] += 1 + (toward_first > 0) - (toward_first < 0)
        orders.setdefault((verdict.judge, verdict.principle), {})[verdict.order] = offset
    for heard in orders.values():
        if len(heard) == 2:
            ab, ba = heard["ab"], heard["ba"]
            found.position["heard"] += 1
            found.position["agreed"] += ab * ba > 0 or ab == ba == 0
