"""What the checks of an audit found: counts, shares and rows, with memory bounded whatever the number of rows.

Of each check the first LISTED rows are kept; with `out` every one goes to a file as it is found. Text in a finding
is clipped, and what could steer a terminal is replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cai.intervals import rate
from cai.report.plots import visible
from cai.rows import Row
from cai.store import RowsWriter

LISTED = 1_000  # rows of a check that the result lists
QUOTE = 100  # characters of a text that are shown
LONGEST_ID = 200


class Finding(Row):
    """A row in which a check found something. `id`: the row's own, or its number; `detail`: what was found."""

    id: str
    check: str
    detail: str


class Check(Row):
    """What came of one check. `n`: what it looked at (`unit`: rows, revisions …), `count`: how many it found.

    `share` of n with its 95 % Wilson interval [low, high]; None of nothing. `count` is None where the check could not
    be made, and `note` says why. `listed`: the first findings, at most LISTED.
    """

    what: str
    unit: str
    n: int
    count: int | None
    share: float | None
    low: float | None
    high: float | None
    note: str | None = None
    listed: tuple[Finding, ...] = ()


class Ledger:
    """Takes findings as they come. `checks`: name → (what it means, the unit it counts)."""

    def __init__(self, checks: Mapping[str, tuple[str, str]], out: Path | None = None) -> None:
        self._checks = checks
        self._n: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._listed: dict[str, list[Finding]] = {name: [] for name in checks}
        self._notes: dict[str, str] = {}
        self._unmade: set[str] = set()
        self._estimates: dict[str, tuple[float | None, float | None, float | None]] = {}
        self._out = RowsWriter(out) if out else None

    def look(self, *checks: str, n: int = 1) -> None:
        """Count one more row (or n) that these checks look at."""
        for check in checks:
            self._n[check] += n

    def found(self, check: str, id: str, detail: str) -> None:
        """Note one row."""
        self._counts[check] += 1
        self.listed(check, id, detail)

    def listed(self, check: str, id: str, detail: str) -> None:
        """List one row that is not counted, for the share of its check is estimated otherwise."""
        finding = Finding(id=visible(id)[:LONGEST_ID], check=check, detail=detail)
        if len(self._listed[check]) < LISTED:
            self._listed[check].append(finding)
        if self._out:
            self._out.write(finding)

    def note(self, check: str, text: str) -> None:
        """Say something about how a check was made."""
        self._notes[check] = text

    def estimated(
        self,
        check: str,
        n: int,
        share: float | None,
        interval: tuple[float | None, float | None],
        note: str | None,
    ) -> None:
        """Give the share of a check that is no count of rows; None: it could not be estimated, as `note` says."""
        self._estimates[check] = (share, *interval)
        self._n[check] = n
        if note is not None:
            self._notes[check] = note

    def unmade(self, check: str, reason: str) -> None:
        """Say that a check could not be made, and why."""
        self._unmade.add(check)
        self._notes[check] = reason

    def checks(self) -> dict[str, Check]:
        """All checks, the largest share first, then those that found nothing and those that could not be made."""
        done = {name: self._check(name) for name in self._checks}
        return dict(sorted(done.items(), key=lambda item: (item[1].count is None, -(item[1].share or 0.0))))

    def publish(self) -> None:
        """Put the file of all findings in place."""
        if self._out:
            self._out.publish()

    def discard(self) -> None:
        """Remove what was written of it; does nothing after `publish`."""
        if self._out:
            self._out.discard()

    def _check(self, name: str) -> Check:
        what, unit = self._checks[name]
        n, note = self._n[name], self._notes.get(name)
        listed = tuple(self._listed[name])
        if name in self._estimates and n:
            share, low, high = self._estimates[name]
            count = None if share is None else round(share * n)
            return Check(
                what=what,
                unit=unit,
                n=n,
                count=count,
                share=share,
                low=low,
                high=high,
                note=note,
                listed=listed,
            )
        if name in self._unmade or n == 0:
            missing = note or f"the input has no {unit} to look at"
            return Check(what=what, unit=unit, n=n, count=None, share=None, low=None, high=None, note=missing)
        found = self._counts[name]
        of = rate(found, n)
        return Check(
            what=what,
            unit=unit,
            n=n,
            count=found,
            share=of.rate,
            low=of.low,
            high=of.high,
            note=note,
            listed=listed,
        )


def quote(text: str, at: int = 0) -> str:
    """A piece of a text in quotation marks, from a little before `at` on, on one line and clipped."""
    start = max(0, at - QUOTE // 4) if at > QUOTE // 2 else 0
    piece = text[start : start + QUOTE]
    shown = visible(" ".join(piece.split()))
    before, after = ("…" if start else ""), ("…" if start + QUOTE < len(text) else "")
    return f"“{before}{shown}{after}”"
