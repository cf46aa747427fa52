"""Two versions of the same rows, counted in one pass over each; the rows of both come in about the same order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from cai.report.edit_examples import keep, label_examples, principles_of, revision_examples
from cai.report.edit_rows import Example, Judgments, Met, Move, Pairs, Revisions
from cai.rows import Judgment, Pair, Revision
from cai.store.join import joined

MOVED = 0.1  # of p; less is the noise of a judge
MOVES = 20
Moves = Counter[tuple[str | None, str | None]]


def compare_revisions(
    old: Iterable[Revision], new: Iterable[Revision], examples: list[Example], *, whole: bool
) -> Revisions:
    """What became of the critiques and revisions; adds to `examples`.

    `whole`: every reply met all principles that it drew; else a chain may have ended where a critique found nothing.
    """
    count: Counter[str] = Counter()
    moves: Moves = Counter()
    for was, now in joined(old, new):
        count["before"] += was is not None
        count["after"] += now is not None
        if was is None or now is None:
            continue
        same = was.reply.text == now.reply.text
        met, meets = ([done.principle for done in one.rounds] for one in (was, now))
        if not whole and met and meets:
            met, meets = met[: len(meets)], meets[: len(met)]
        calls, calls_now = ([done.calls for done in one.rounds] for one in (was, now))
        _meet(count, moves, met, meets, same_texts=same, same_calls=calls == calls_now)
        if same:
            count["rewritten"] += was.final != now.final
            _critiques(count, was, now)
            keep(examples, revision_examples(was, now))
    return Revisions(
        before=count["before"],
        after=count["after"],
        met=_met(count, moves),
        critiques=count["critiques"],
        found=count["found"],
        cleared=count["cleared"],
        rewritten=count["rewritten"],
    )


def compare_judgments(old: Iterable[Judgment], new: Iterable[Judgment], examples: list[Example]) -> Judgments:
    """What became of the labels; adds to `examples`."""
    count: Counter[str] = Counter()
    moves: Moves = Counter()
    states: Counter[str] = Counter()
    for was, now in joined(old, new):
        count["before"] += was is not None
        count["after"] += now is not None
        if was is None or now is None:
            continue
        same = (was.a.text, was.b.text) == (now.a.text, now.b.text)
        met, meets = (sorted(principles_of(one)) for one in (was, now))  # their order is nothing to a judge
        calls, calls_now = (sorted(verdict.calls for verdict in one.verdicts) for one in (was, now))
        _meet(count, moves, met, meets, same_texts=same, same_calls=calls == calls_now)
        if same:
            if was.state != now.state:
                states[f"{was.state} → {now.state}"] += 1
            _label(count, was, now)
            keep(examples, label_examples(was, now))
    return Judgments(
        before=count["before"],
        after=count["after"],
        met=_met(count, moves),
        gained=count["gained"],
        lost=count["lost"],
        states=dict(sorted(states.items(), key=lambda item: (-item[1], item[0]))),
        flipped=count["flipped"],
        p_moved=count["p_moved"],
    )


def compare_pairs(old: Iterable[Pair], new: Iterable[Pair]) -> Pairs:
    """What became of the preference data."""
    count: Counter[str] = Counter()
    for was, now in joined(old, new):
        count["before"] += was is not None
        count["after"] += now is not None
        if was is not None and now is not None:
            swapped = (was.chosen, was.rejected) == (now.rejected, now.chosen)
            same = (was.chosen, was.rejected) == (now.chosen, now.rejected)
            count["both"] += 1
            count["swapped"] += swapped
            count["rewritten"] += not (swapped or same)
    return Pairs(
        before=count["before"],
        after=count["after"],
        both=count["both"],
        swapped=count["swapped"],
        rewritten=count["rewritten"],
    )


def _meet(
    count: Counter[str],
    moves: Moves,
    old: Sequence[str],
    new: Sequence[str],
    *,
    same_texts: bool,
    same_calls: bool,
) -> None:
    """Count how one row met the constitution; principles in the order of their rounds."""
    lost, gained = [p for p in old if p not in new], [p for p in new if p not in old]
    count["both"] += 1
    if not same_texts:
        count["other_texts"] += 1
    elif lost or gained:
        count["moved"] += 1
        moves.update(zip_longest(lost, gained))
    elif old != new:
        count["reordered"] += 1
    else:
        count["untouched" if same_calls else "asked_again"] += 1


def _met(count: Counter[str], moves: Moves) -> Met:
    largest = sorted(moves.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    return Met(
        both=count["both"],
        other_texts=count["other_texts"],
        moved=count["moved"],
        reordered=count["reordered"],
        asked_again=count["asked_again"],
        untouched=count["untouched"],
        moves=tuple(Move(before=lost, after=gained, rows=n) for (lost, gained), n in largest[:MOVES]),
    )


def _critiques(count: Counter[str], was: Revision, now: Revision) -> None:
    before = {done.principle: done.violated for done in was.rounds}
    for done in now.rounds:
        if done.principle in before:
            count["critiques"] += 1
            count["found"] += done.violated and not before[done.principle]
            count["cleared"] += before[done.principle] and not done.violated


def _label(count: Counter[str], was: Judgment, now: Judgment) -> None:
    before, after = was.state == "labelled", now.state == "labelled"
    count["gained"] += after and not before
    count["lost"] += before and not after
    if was.p is not None and now.p is not None:
        count["flipped"] += before and after and (was.p > 0.5) != (now.p > 0.5)
        count["p_moved"] += abs(was.p - now.p) > MOVED
