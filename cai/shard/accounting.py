"""What a run accounts for: every row that came in, and every call that was made. It is checked, never assumed.

A shard's counts are taken while its rows are written and held against its journal before it counts as done; a run's
are those of all its manifests, held against each other at its end. Where two numbers differ that must not, something
was lost or counted twice, which is a bug: the run stops and says what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cai.accounts.spending import Spent
from cai.errors import AccountingError
from cai.journal import Journal
from cai.rows import Drop, Row
from cai.shard import ShardReport

BUG = "this is a bug: please report it with the run's folder; every reply is kept"


@dataclass
class RowsIn:
    """The rows that came into a shard: those that gave rows (`used`), and those of which nothing but drops came.

    `drops`: what was dropped, by reason; a row of which several replies were sampled can give rows and drops.
    """

    stage: str
    shard: int
    used: int = 0
    lost: int = 0
    drops: Counter[str] = field(default_factory=Counter)

    def add(self, row: str, results: Sequence[Row]) -> list[tuple[bool, Row]]:
        """Count the row of this id by what came of it; returns that, each with whether it is a row or a drop.

        Raises AccountingError for a result of another row.
        """
        told: list[tuple[bool, Row]] = []
        for result in results:
            found: str = result.id  # type: ignore[attr-defined]
            if found != row and not found.startswith(f"{row}/"):
                raise AccountingError(
                    f"stage {self.stage}, shard {self.shard}: row {row} gave {found}, which is of another row; {BUG}"
                )
            if dropped := isinstance(result, Drop):
                self.drops[result.reason] += 1
            told.append((not dropped, result))
        if any(kept for kept, _ in told):
            self.used += 1
        else:
            self.lost += 1
        return told


class Claim(NamedTuple):
    """Two numbers that must be the same."""

    what: str
    told: int
    other: str
    found: int


def check_shard(report: ShardReport, journal: Journal) -> None:
    """Hold what a shard says of itself against its journal. Raises AccountingError."""
    made, calls = report.calls_made, report.calls_made + report.calls_replayed
    claims = _of_rows(report)
    claims += [
        Claim("calls made", made, "replies journalled", journal.added),
        Claim("calls behind the rows", calls, "replies used", len(journal) - journal.unused),
        Claim("lines of the journal", journal.replies, "replies", len(journal) + journal.repeated),
    ]
    if report.attempts or report.failed_attempts:  # a model without a retry policy tells of none
        ended = made + sum(report.failed_attempts.values())
        claims.append(Claim("attempts sent", report.attempts or 0, "replies and failed attempts", ended))
    _hold(report.stage, report.shard, claims)


def _of_rows(report: ShardReport) -> list[Claim]:
    """What must be true of a manifest by itself; older ones do not tell rows that gave some from those that did not."""
    claims = [
        Claim("rows published", report.rows.rows, "rows out", report.rows_out),
        Claim("drops published", report.dropped.rows, "drops by reason", sum(report.drops.values())),
    ]
    if report.rows_used is not None and report.rows_lost is not None:
        ended = report.rows_used + report.rows_lost
        claims.append(Claim("rows in", report.rows_in, "rows that gave rows or were dropped", ended))
    return claims


def _hold(stage: str, shard: int, claims: Iterable[Claim]) -> None:
    for claim in claims:
        if claim.told != claim.found:
            raise AccountingError(
                f"stage {stage}, shard {shard}: {claim.told:,} {claim.what}, but {claim.found:,} {claim.other}; {BUG}"
            )


def check_attempts(spent: Spent) -> None:
    """Hold all attempts of a run, over all its resumes, against what came of them. Raises AccountingError."""
    ended = spent.replies + sum(spent.failed.values())
    if ended > spent.calls:
        raise AccountingError(
            f"{spent.calls:,} attempts sent, but {ended:,} replies and failed attempts; {BUG}"
        )


def check_manifests(reports: Iterable[ShardReport]) -> None:
    """Hold manifests against themselves. Raises AccountingError."""
    for report in reports:
        _hold(report.stage, report.shard, _of_rows(report))


class Link(NamedTuple):
    """The stage `reader` reads what `origin` published; some of it (`all_rows` false); or what that one has read."""

    reader: str
    origin: str
    all_rows: bool = True
    what_was_read: bool = False


def check_links(link: Link, readers: Iterable[ShardReport], origins: Iterable[ShardReport]) -> None:
    """Hold what a stage read, shard by shard, against what was there to be read. Raises AccountingError."""
    there = {report.shard: report for report in origins}
    for report in readers:
        if (origin := there.get(report.shard)) is not None:
            found = origin.rows_in if link.what_was_read else origin.rows_out
            count = report.rows_in if link.all_rows else max(report.rows_in, found)
            _hold(link.reader, report.shard, [Claim("rows in", count, f"rows of {link.origin}", found)])


def accounted_line(accounted: dict[str, Any]) -> str:
    """What a run accounts for, in words."""
    failed, lost = accounted["failed_attempts"], accounted["attempts_lost"]
    parts = [
        f"{accounted['read']:,} prompts = {accounted['prompts']:,} kept + {accounted['dropped']:,} dropped"
    ]
    if accounted["attempts"]:
        parts.append(f"{accounted['calls']:,} calls behind the rows")
        ended = [f"{accounted['replies']:,} replies"]
        if failed:
            causes = ", ".join(f"{why} {count:,}" for why, count in failed.items())
            ended.append(f"{sum(failed.values()):,} failed ({causes})")
        if lost:
            ended.append(f"{lost:,} in flight when a process ended")
        parts.append(f"{accounted['attempts']:,} attempts = {' + '.join(ended)}")
    return "; ".join(parts)
