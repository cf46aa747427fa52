"""How often a judge is right, from what people said about a sample of its rows without seeing its answer.

Rows count from the first of the sample to the last before one that nobody has marked: that much is a random sample,
finished or not. Marks made with the label in sight do not count here, as they follow it; neither do marks on texts
that a later run has changed, nor rows that are unusable or on which the authors disagree: these are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cai.judge.cases import Gold
from cai.marks.bounds import bounds
from cai.marks.mark import Key, Mark, Said, leaning, pair_digest, said_of
from cai.marks.plan import Audit
from cai.marks.sample import Of, Place, read_place
from cai.rows import Judgment, Row

MIN_PRINCIPLE = 10  # rows below which a principle's own share says next to nothing


class Accuracy(Row):
    """How often a judge was right on `n` rows, with the exact 95 % interval; None where n is 0.

    `ties`: rows among them that people take for ties: a label on one is wrong, an opinion below the threshold is
    neither and not among the n. `of`: how many such rows the interval is about; None: without end.
    """

    right: int
    n: int
    ties: int
    of: int | None
    rate: float | None
    low: float | None
    high: float | None


class ByPrinciple(Row):
    """How often a judge's own verdict under a principle, the mean of both orders, took the better reply."""

    principle: str
    accuracy: Accuracy


class AuditFigures(Row):
    """Where an audit stands. `marked`: rows that count, of the plan's `size`; the figures are about them.

    `ahead`: marked rows behind one that is not. `stale`: rows whose texts have changed since they were marked.
    `labels`: the labels of the judge; `opinions`: its opinions also below the threshold, where the plan asks for all
    scored rows. `principles`: those with at least `MIN_PRINCIPLE` rows. `reached`: the planned margin is kept.
    """

    of: Of
    margin: float
    expected: float
    seed: int
    size: int
    rows: int
    authors: tuple[str, ...]
    marked: int
    ahead: int
    stale: int
    unusable: int
    disputed: int
    labels: Accuracy
    opinions: Accuracy | None
    principles: tuple[ByPrinciple, ...]
    reached: bool


class Heard(NamedTuple):
    """A row of the sample that has been marked, as it is now, and what was said about it."""

    place: Place
    row: Judgment
    said: Said


class Marked(NamedTuple):
    """The sample as far as it is marked. `heard`: rows up to the first gap. `ahead`, `stale`: see `AuditFigures`."""

    heard: list[Heard]
    ahead: int
    stale: int
    keys: frozenset[Key]


def marked_of(audit: Audit, marks: Sequence[Mark], author: str | None = None) -> Marked:
    """What blind marks, of one author or of all, say about the rows of a sample."""
    blind = [mark for mark in marks if mark.blind and author in (None, mark.author)]
    said = said_of(blind)
    heard: list[Heard | None] = []
    stale = 0
    for place in audit.sample:
        one = _heard(place, said[place.key]) if place.key in said else None
        stale += one is None and place.key in said
        heard.append(one)
    gap = heard.index(None) if None in heard else len(heard)
    counted = [one for one in heard if one is not None]
    keys = frozenset(one.place.key for one in counted)
    return Marked(counted[:gap], len(counted) - gap, stale, keys)


def next_place(audit: Audit, marks: Sequence[Mark], author: str) -> tuple[Place | None, int]:
    """The first row of the sample that an author has yet to mark, None for none left; and how many they have."""
    keys = marked_of(audit, marks, author).keys
    return next((place for place in audit.sample if place.key not in keys), None), len(keys)


def audit_figures(audit: Audit, marks: Sequence[Mark], author: str | None = None) -> AuditFigures:
    """The figures of an audit, by the marks of one author or of all."""
    plan, marked = audit.plan, marked_of(audit, marks, author)
    usable = [one for one in marked.heard if one.said.gold is not None]
    labelled = [one for one in usable if one.row.state == "labelled"]
    labels = accuracy(
        [(leaning(one.row), one.said.gold) for one in labelled], audit.drawn.labelled, ties_wrong=True
    )
    opinions = None
    if plan.of == "scored":
        opinions = accuracy([(leaning(one.row), one.said.gold) for one in usable], audit.size)
    first = opinions or labels
    disputed = sum(one.said.disputed for one in marked.heard)
    return AuditFigures(
        **plan.model_dump(include={"of", "margin", "expected", "seed", "size"}),
        rows=audit.size,
        authors=tuple(sorted({mark.author for one in marked.heard for mark in one.said.marks})),
        marked=len(marked.heard),
        ahead=marked.ahead,
        stale=marked.stale,
        unusable=len(marked.heard) - len(usable) - disputed,
        disputed=disputed,
        labels=labels,
        opinions=opinions,
        principles=tuple(_by_principle(usable)),
        reached=margin_of(first) is not None and (margin_of(first) or 0) <= plan.margin,
    )


def accuracy(
    answers: Sequence[tuple[str | None, Gold | None]], size: int | None, *, ties_wrong: bool = False
) -> Accuracy:
    """How many of the answers are the gold. `size`: see `Accuracy.of`; ties are left out unless they are wrong."""
    ties = sum(gold == "tie" for _, gold in answers)
    counted = [one for one in answers if ties_wrong or one[1] != "tie"]
    right, n = sum(answer == gold for answer, gold in counted), len(counted)
    if not n:
        return Accuracy(right=0, n=0, ties=ties, of=size, rate=None, low=None, high=None)
    found = bounds(right, n, size)
    return Accuracy(right=right, n=n, ties=ties, of=size, **found._asdict())


def margin_of(found: Accuracy) -> float | None:
    """How far the truth may be from the rate, on the wider side; None without rows."""
    if found.rate is None or found.low is None or found.high is None:
        return None
    return max(found.rate - found.low, found.high - found.rate)


def _heard(place: Place, said: Said) -> Heard | None:
    """A marked row with the marks on its present texts; None where there are none."""
    row = read_place(place)
    digest = pair_digest(row)
    current = said_of(mark for mark in said.marks if mark.pair == digest).get(place.key)
    return Heard(place, row, current) if current else None


def _by_principle(heard: Sequence[Heard]) -> list[ByPrinciple]:
    """The principles with enough rows, by name. Rows under one are a random sample of the run's rows under it."""
    answers: dict[str, list[tuple[str | None, Gold | None]]] = {}
    for one in heard:
        orders: dict[str, list[float]] = {}
        for verdict in one.row.verdicts:
            if verdict.p is not None:
                orders.setdefault(verdict.principle, []).append(verdict.p)
        for principle, said in orders.items():
            mean = sum(said) / len(said)
            side = None if mean == 0.5 else "A" if mean > 0.5 else "B"
            answers.setdefault(principle, []).append((side, one.said.gold))
    found = [(name, accuracy(own, None)) for name, own in sorted(answers.items())]
    return [ByPrinciple(principle=name, accuracy=one) for name, one in found if one.n >= MIN_PRINCIPLE]
