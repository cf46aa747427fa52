"""From the counters to `filter.json`: what was judged, what was kept, and how the two differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import get_args

from cai.exact import fisher_p
from cai.intervals import rate
from cai.report.filter_rows import (
    Bin,
    Filter,
    Interval,
    Length,
    LengthShift,
    Point,
    Position,
    Share,
    Value,
)
from cai.report.tally import BINS, RATIO_STEPS, THRESHOLDS, Group, Tally
from cai.rows import JudgmentState

ALPHA = 0.05
Table = Mapping[tuple[bool, int], int]  # judgments by (kept, longer), as in `Cell`


def summarise(counts: Tally, *, stage: str, inputs: str, threshold: float | None) -> Filter:
    """The figures of all counters, without notes. The arguments that follow `counts` are copied as they are."""
    tables: dict[Group, dict[str, Counter[tuple[bool, int]]]] = {group: {} for group in get_args(Group)}
    for (group, value, kept, longer), n in counts.cells.items():
        tables[group].setdefault(value, Counter())[kept, longer] += n
    whole = tables["all"].get("", Counter())
    coverage = rate(counts.states["labelled"], counts.states.total())
    return Filter(
        stage=stage,
        inputs=inputs,
        threshold=threshold,
        judged=counts.states.total(),
        kept=counts.states["labelled"],
        coverage=Interval(rate=coverage.rate, low=coverage.low, high=coverage.high, n=coverage.n),
        states={state: counts.states[state] for state in get_args(JudgmentState)},
        before=_n(whole),
        after=_n(whole, kept=True),
        length=_length(counts, whole),
        kind=_values(tables["kind"], whole),
        source=_values(tables["source"], whole),
        tag=_values(tables["tag"], whole),
        principle=_values(tables["principle"], whole),
        confidence=tuple(_bin(counts, index) for index in range(BINS)),
        thresholds=tuple(_point(counts, index) for index in range(len(THRESHOLDS))),
        position=position_of(counts),
    )


def _n(table: Table, *, kept: bool = False) -> int:
    """Judgments of a table; `kept`: labels only."""
    return sum(n for (label, _), n in table.items() if label or not kept)


def _longer_rate(table: Table, *, kept: bool = False) -> float | None:
    doubled = sum(longer * n for (label, longer), n in table.items() if label or not kept)
    return _ratio(doubled, 2 * _n(table, kept=kept))


def _values(tables: Mapping[str, Table], whole: Table) -> dict[str, Value]:
    """One row for each value of a group, the largest first."""
    before, after = _n(whole), _n(whole, kept=True)
    found: dict[str, Value] = {}
    for value, table in sorted(tables.items(), key=lambda item: (-_n(item[1]), item[0])):
        n, kept = _n(table), _n(table, kept=True)
        chance = _chance(kept, after - kept, n - kept, before - n - (after - kept))
        found[value] = Value(
            before=Share(n=n, share=_ratio(n, before), longer_rate=_longer_rate(table)),
            after=Share(n=kept, share=_ratio(kept, after), longer_rate=_longer_rate(table, kept=True)),
            coverage=kept / n,
            shift=_points(_ratio(kept, after), _ratio(n, before)),
            clear=chance < ALPHA / len(tables),
        )
    return found


def _length(counts: Tally, whole: Table) -> LengthShift:
    def side(kept: bool) -> Length:
        fates = (True,) if kept else (True, False)
        n = _n(whole, kept=kept)
        return Length(
            n=n,
            longer_rate=_longer_rate(whole, kept=kept),
            preferred_chars=_ratio(sum(counts.chars[fate, True] for fate in fates), n),
            other_chars=_ratio(sum(counts.chars[fate, False] for fate in fates), n),
            median_ratio=_median_ratio(counts, fates),
        )

    def count(kept: bool, longer: int) -> int:
        return sum(n for key, n in whole.items() if key == (kept, longer))

    before, after = side(False), side(True)
    chance = _chance(count(True, 2), count(True, 0), count(False, 2), count(False, 0))
    shift = _points(after.longer_rate, before.longer_rate)
    return LengthShift(before=before, after=after, shift=shift, clear=chance < ALPHA)


def _median_ratio(counts: Tally, fates: tuple[bool, ...]) -> float | None:
    bins: Counter[int] = Counter()
    for (kept, step), n in counts.ratios.items():
        if kept in fates:
            bins[step] += n
    seen = 0
    for step in sorted(bins):
        seen += bins[step]
        if 2 * seen >= bins.total():
            return float(2 ** (step / RATIO_STEPS))
    return None


def _bin(counts: Tally, index: int) -> Bin:
    return Bin(
        low=round(0.5 + index / (2 * BINS), 3),
        high=round(0.5 + (index + 1) / (2 * BINS), 3),
        kept=counts.fates[index, "kept"],
        not_kept=counts.fates[index, "not_kept"],
        inconsistent=counts.fates[index, "inconsistent"],
    )


def _point(counts: Tally, index: int) -> Point:
    passing = [(longer, n) for (reached, longer), n in counts.passing.items() if reached > index]
    n = sum(n for _, n in passing)
    return Point(
        threshold=THRESHOLDS[index],
        n=n,
        coverage=_ratio(n, counts.states.total()),
        longer_rate=_ratio(sum(longer * n for longer, n in passing), 2 * n),
    )


def position_of(counts: Tally) -> Position:
    """What single verdicts tell of the judge's bias for a position."""
    found = counts.position
    return Position(
        verdicts=found["verdicts"],
        first_position_rate=_ratio(found["first"], 2 * found["verdicts"]),
        heard_in_both_orders=found["heard"],
        agreement=_ratio(found["agreed"], found["heard"]),
    )


@lru_cache(1 << 14)  # of many small sources, most have one of a few tables
def _chance(kept_in: int, kept_out: int, dropped_in: int, dropped_out: int) -> float:
    """Two-sided p of Fisher's exact test."""
    if not (kept_in + kept_out and dropped_in + dropped_out):
        return 1.0
    return fisher_p(kept_in, kept_out, dropped_in, dropped_out)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _points(after: float | None, before: float | None) -> float | None:
    """A difference in percentage points."""
    return None if after is None or before is None else 100 * (after - before)
