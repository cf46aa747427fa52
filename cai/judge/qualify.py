"""May this judge label? What speaks against it on labelled pairs, and whether that refuses it.

A finding counts only beyond doubt (an exact one-sided binomial test at 2.5 %), so few pairs refuse nobody, and
say so. Filtering on agreement makes a judge that is consistently wrong worse, not better; that is why being
wrong when both orders agree is looked at by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cai.exact import binomial_cdf, fisher_p
from cai.intervals import rate
from cai.judge.cases import Case, hit, offset, orders_of, scored, side
from cai.judge.curve import probability

DOUBT = 0.025
POSITION_LIMIT = 0.75  # half of all pairs, or more, decided by which reply comes first
LENGTH_LIMIT = (
    0.5  # how much more often it may be wrong where the better reply is the shorter (or the longer) one
)
UNPARSED_LIMIT = 0.1
UNPARSED_NOTED = 0.02
FEW = 30

Kind = Literal[
    "nothing_scored", "below_coin", "below_longer_wins", "wrong_when_agreed", "position", "length", "unparsed",
    "few",
]  # fmt: skip


class Finding(NamedTuple):
    """Something that speaks against a judge; `refuses`: enough to keep it from labelling."""

    kind: Kind
    refuses: bool
    message: str


class Decided(NamedTuple):
    """A scored pair on which the judge has a side. `both`: it was read in both orders; `agreed`: and they agree.

    `gold_longer`: 1 where the better reply is the longer one, 0.5 where they are equally long.
    """

    right: bool
    gold_longer: float
    both: bool
    agreed: bool


def qualify(cases: Sequence[Case]) -> list[Finding]:
    """All findings, those that refuse first; the judge is qualified where none refuses."""
    n = sum(map(scored, cases))
    found = [_position(cases), _unparsed(cases)]
    if n == 0:
        found.append(Finding("nothing_scored", True, f"none of {len(cases)} pairs could be scored"))
    else:
        pairs = decided(cases)
        found += [_coin(pairs), _longer_wins(pairs), _when_agreed(pairs), _length(pairs)]
    if 0 < n < FEW:
        found.append(
            Finding(
                "few", False, f"only {n} scored pairs: nothing but a very bad judge would show; label more"
            )
        )
    return sorted((finding for finding in found if finding), key=lambda finding: not finding.refuses)


def decided(cases: Sequence[Case]) -> list[Decided]:
    """The scored pairs on which the mean of the orders is on a side."""
    found: list[Decided] = []
    for case in filter(scored, cases):
        mean = offset(case)
        if mean:
            p = probability(mean)
            both = case.ab is not None and case.ba is not None
            agreed = case.ab is not None and case.ba is not None and (case.ab - 0.5) * (case.ba - 0.5) > 0
            found.append(
                Decided(
                    right=hit(p, case.gold) == 1,
                    gold_longer=case.longer if case.gold == "A" else 1 - case.longer,
                    both=both,
                    agreed=agreed,
                )
            )
    return found


def beyond_doubt(fewer: int, n: int) -> bool:
    """True where `fewer` of `n` is below one half by more than chance."""
    # half or more never is, and scipy takes longer to load than a small run's report to write
    return 2 * fewer < n and binomial_cdf(fewer, n, 0.5) < DOUBT


def _coin(pairs: Sequence[Decided]) -> Finding | None:
    right = sum(pair.right for pair in pairs)
    if not beyond_doubt(right, len(pairs)):
        return None
    text = f"below a coin: right in {right} of {len(pairs)} pairs ({right / len(pairs):.1%})"
    return Finding("below_coin", True, text)


def _longer_wins(pairs: Sequence[Decided]) -> Finding | None:
    """The judge against the rule that the longer reply is better, on pairs that it could label."""
    apart = [pair for pair in pairs if pair.gold_longer != 0.5 and (pair.agreed or not pair.both)]
    judge = sum(pair.right and pair.gold_longer == 0 for pair in apart)
    rule = sum(not pair.right and pair.gold_longer == 1 for pair in apart)
    if not beyond_doubt(judge, judge + rule):
        return None
    share = sum(pair.right for pair in apart) / len(apart)
    longer = sum(pair.gold_longer for pair in apart) / len(apart)
    text = f"below 'longer wins': right in {share:.1%} of pairs, taking the longer reply in {longer:.1%}"
    return Finding("below_longer_wins", True, text)


def _when_agreed(pairs: Sequence[Decided]) -> Finding | None:
    agreed = [pair for pair in pairs if pair.agreed]
    right = sum(pair.right for pair in agreed)
    if not beyond_doubt(right, len(agreed)):
        return None
    text = (
        f"wrong when both orders agree: right in {right} of {len(agreed)} such pairs "
        f"({right / len(agreed):.1%}); filtering would keep its errors"
    )
    return Finding("wrong_when_agreed", True, text)


def _position(cases: Sequence[Case]) -> Finding | None:
    """Pairs in which the same place wins in both orders: as many for the first as for the second without bias."""
    both = [(c.ab - 0.5, c.ba - 0.5) for c in cases if c.ab is not None and c.ba is not None]
    first = sum(ab > 0 > ba for ab, ba in both)
    second = sum(ab < 0 < ba for ab, ba in both)
    if not beyond_doubt(min(first, second), first + second):
        return None
    won = sum(side(ab) + side(-ba) for ab, ba in both) / (2 * len(both))
    place, share = ("first", won) if first > second else ("second", 1 - won)
    refuses = share >= POSITION_LIMIT
    text = (
        f"position bias: the reply shown {place} wins {share:.1%} of the verdicts"
        f"{'' if refuses else f' (refused from {POSITION_LIMIT:.0%} on)'}"
    )
    return Finding("position", refuses, text)


def _length(pairs: Sequence[Decided]) -> Finding | None:
    """Is the judge wrong more often where the better reply is the shorter one than where it is the longer?"""
    short = [pair.right for pair in pairs if pair.gold_longer == 0]
    long = [pair.right for pair in pairs if pair.gold_longer == 1]
    if not short or not long:
        return None
    wrong = [len(short) - sum(short), len(long) - sum(long)]
    if fisher_p(wrong[0], sum(short), wrong[1], sum(long)) >= 2 * DOUBT:
        return None
    gap = wrong[0] / len(short) - wrong[1] / len(long)
    refuses = abs(gap) >= LENGTH_LIMIT
    text = (
        f"length bias: wrong in {wrong[0] / len(short):.1%} of pairs whose better reply is the shorter, in "
        f"{wrong[1] / len(long):.1%} where it is the longer"
        f"{'' if refuses else f' (refused from a gap of {100 * LENGTH_LIMIT:.0f} points on)'}"
    )
    return Finding("length", refuses, text)


def _unparsed(cases: Sequence[Case]) -> Finding | None:
    orders = orders_of(cases)
    asked = len(cases) * len(orders)
    unread = sum((case.ab if order == "ab" else case.ba) is None for case in cases for order in orders)
    if not asked or unread / asked <= UNPARSED_NOTED:
        return None
    low = rate(unread, asked).low
    refuses = low is not None and low > UNPARSED_LIMIT
    text = f"unparsed: {unread} of {asked} verdicts ({unread / asked:.1%}) could not be read"
    return Finding(
        "unparsed", refuses, text + ("" if refuses else f" (refused from {UNPARSED_LIMIT:.0%} on)")
    )
