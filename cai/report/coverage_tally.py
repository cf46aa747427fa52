"""What each principle did, counted in one pass over revisions and judgments: integers only, no row is kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from cai.constitution import Principle
from cai.judge.label import Label, heard_in_both_orders
from cai.rows import Judgment, Revision, Verdict
from cai.store.join import joined

Outcome = Callable[[Sequence[Verdict], Sequence[Principle]], Label]
Fate = Literal["better", "worse", "undecided"]
Count = Literal[
    "rounds", "violated", "revised", "judged", "better", "worse", "undecided",
    "drawn", "unread", "inconsistent", "labels", "decided", "compared", "agreed",
]  # fmt: skip


class Counts(NamedTuple):
    """All counters. `of`: by (principle, what). `revise_tags`, `judge_tags`: rows by the tags of their prompts."""

    of: Counter[tuple[str, Count]]
    revise_tags: Counter[tuple[str, ...]]
    judge_tags: Counter[tuple[str, ...]]


class Revised(NamedTuple):
    """A revision that is another text than its reply, and the principles that had a part in it."""

    id: str
    principles: tuple[str, ...]


class Verified(NamedTuple):
    """What a judge found of the revision with this id."""

    id: str
    fate: Fate


def empty_counts() -> Counts:
    """Counters of nothing."""
    return Counts(Counter(), Counter(), Counter())


def count_revisions(counts: Counts, revisions: Iterable[Revision]) -> Iterator[Revised]:
    """Count the rounds of all revisions; yields those that changed their reply, for `count_verified`."""
    for revision in revisions:
        counts.revise_tags[revision.reply.prompt.tags] += 1
        text, authors = revision.reply.text, []
        for done in revision.rounds:
            counts.of[done.principle, "rounds"] += 1
            counts.of[done.principle, "violated"] += done.violated
            if done.revision is not None and done.revision != text:
                counts.of[done.principle, "revised"] += 1
                authors.append(done.principle)
                text = done.revision
        if revision.changed:
            yield Revised(revision.id, tuple(dict.fromkeys(authors)))


def count_verified(counts: Counts, revised: Iterable[Revised], verified: Iterable[Verified]) -> None:
    """Count what the judge found of each revision for all its principles; both streams in prompt order."""
    for made, found in joined(revised, verified):
        if made is None or found is None:
            continue
        for principle in made.principles:
            counts.of[principle, "judged"] += 1
            counts.of[principle, found.fate] += 1


def verified(judgments: Iterable[Judgment]) -> Iterator[Verified]:
    """What became of the comparisons of a reply with its revision."""
    for judgment in judgments:
        if judgment.b.kind == "revision":
            fate: Fate = "undecided"
            if judgment.state == "labelled" and judgment.p is not None:
                fate = "better" if judgment.p < 0.5 else "worse"
            yield Verified(judgment.b.id, fate)


def count_judgments(
    counts: Counts, judgments: Iterable[Judgment], principles: Mapping[str, Principle], outcome: Outcome
) -> Iterator[Judgment]:
    """Count and pass on all judgments. `outcome`: the label that the run's judges make of verdicts."""
    for judgment in judgments:
        counts.judge_tags[judgment.prompt.tags] += 1
        drawn = [
            principles[name]
            for name in dict.fromkeys(v.principle for v in judgment.verdicts)
            if name in principles
        ]
        readings = {principle.id: _readings(judgment.verdicts, principle) for principle in drawn}
        for principle in drawn:
            read = readings[principle.id]
            counts.of[principle.id, "drawn"] += 1
            counts.of[principle.id, "unread"] += not read
            counts.of[principle.id, "inconsistent"] += any(ab * ba < 0 for ab, ba in read)
        _agreement(counts, drawn, readings)
        if judgment.state == "labelled":
            _decisions(counts, judgment, drawn, outcome)
        yield judgment


def _readings(verdicts: Sequence[Verdict], principle: Principle) -> list[tuple[float, float]]:
    """What each judge that was read in both orders said under a principle, as offsets from one half."""
    found = []
    for judge in dict.fromkeys(v.judge for v in verdicts):
        said = [v for v in verdicts if v.judge == judge]
        found += [(one.ab - 0.5, one.ba - 0.5) for one in heard_in_both_orders(said, [principle])]
    return found


def _agreement(
    counts: Counts, drawn: Sequence[Principle], readings: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Each principle that was read against the mean of the others, by weight; on no side is neither."""
    means = [
        (principle, math.fsum(ab + ba for ab, ba in read) / len(read))
        for principle in drawn
        if (read := readings[principle.id])
    ]
    for principle, mean in means:
        others = math.fsum(one.weight * said for one, said in means if one is not principle)
        if mean * others:
            counts.of[principle.id, "compared"] += 1
            counts.of[principle.id, "agreed"] += mean * others > 0


def _decisions(counts: Counts, judgment: Judgment, drawn: Sequence[Principle], outcome: Outcome) -> None:
    """A principle decides a label that would be another, or none, without its verdicts.

    Nothing decides a label that `outcome` does not make of all verdicts: another rule made it.
    """
    whole = _side(outcome(judgment.verdicts, drawn))
    same = whole is not None and judgment.p is not None and whole == (judgment.p > 0.5)
    for principle in drawn:
        counts.of[principle.id, "labels"] += 1
        if same:
            rest = [one for one in drawn if one is not principle]
            counts.of[principle.id, "decided"] += _side(outcome(judgment.verdicts, rest)) != whole


def _side(label: Label) -> bool | None:
    """Whether a label prefers candidate a; None for no label."""
    return label.p > 0.5 if label.state == "labelled" and label.p is not None else None
