"""What `coverage.json` holds: one `Coverage`. A rate carries its 95 % Wilson interval, and is None of nothing."""

from __future__ import annotations

from typing import Literal

from cai.report.filter_rows import Interval
from cai.rows import Row

Kind = Literal[
    "never_drawn", "never_violated", "never_better", "more_often_worse", "contradicts", "never_decides"
]


class Revising(Row):
    """What a principle did to replies.

    `drawn`: rounds under it; `violated`: those whose critique found a violation; `revised`: those that changed the
    text. `judged`: comparisons of a reply with the revision that it had a part in; `better`, `worse`: labels for
    and against the revision; `undecided`: no label. A revision by several principles counts for each of them.
    """

    drawn: int
    violated: int
    revised: int
    judged: int
    better: int
    worse: int
    undecided: int
    violated_rate: Interval
    better_rate: Interval


class Judging(Row):
    """What a principle did to labels; all are comparisons.

    `drawn`: it was asked about. `unread`: of those, no judge was read in both orders; `inconsistent`: some judge was,
    with its orders on different sides. `labels`: became a label; `decided`: that label would be lost or turned round
    without its verdicts. `compared`: it and another principle are both on a side (means over orders and judges, the
    others by weight); `agreed`: on the same one.
    """

    drawn: int
    unread: int
    inconsistent: int
    labels: int
    decided: int
    compared: int
    agreed: int
    decided_rate: Interval
    agreed_rate: Interval


class Finding(Row):
    """Something about a principle that its author should know, in words."""

    kind: Kind
    principle: str
    message: str


class Coverage(Row):
    """What came of every principle of the constitution, in its order. `inputs`: digest of all that was counted.

    `replies`: critiqued replies; `comparisons`: judged pairs of replies and revisions.
    """

    inputs: str
    replies: int
    comparisons: int
    revising: dict[str, Revising]
    judging: dict[str, Judging]
    findings: tuple[Finding, ...]
