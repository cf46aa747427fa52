"""What `filter.json` holds: one `Filter`. Rates and shares lie in [0, 1] and are None of nothing."""

from __future__ import annotations

from cai.rows import JudgmentState, Row


class Interval(Row):
    """A share of `n` with its 95 % Wilson interval; None of nothing."""

    rate: float | None
    low: float | None
    high: float | None
    n: int


class Share(Row):
    """The judgments of one value. `share`: of all before, or of all after. `longer_rate`: as in `Length`."""

    n: int
    share: float | None
    longer_rate: float | None


class Value(Row):
    """One source, tag, principle or kind. `coverage`: after / before. `shift`: share after − before, in percentage
    points. `clear`: kept and dropped judgments differ in it by more than chance explains (Fisher's exact test, 5 %
    shared out among the values of the table).
    """

    before: Share
    after: Share
    coverage: float
    shift: float | None
    clear: bool


class Length(Row):
    """`longer_rate`: share whose preferred side has more characters, equal lengths counting half. `preferred_chars`,
    `other_chars`: mean lengths. `median_ratio`: of preferred to other length, right to 2 %.
    """

    n: int
    longer_rate: float | None
    preferred_chars: float | None
    other_chars: float | None
    median_ratio: float | None


class LengthShift(Row):
    """`shift`: longer_rate after − before, in percentage points; `clear`: as in `Value`, of unequal lengths."""

    before: Length
    after: Length
    shift: float | None
    clear: bool


class Bin(Row):
    """Scored judgments with a confidence max(p, 1 − p) in [low, high), the last bin with its end."""

    low: float
    high: float
    kept: int
    not_kept: int
    inconsistent: int


class Point(Row):
    """What another threshold would keep of the judgments as they are. `coverage`: of all judgments."""

    threshold: float
    n: int
    coverage: float | None
    longer_rate: float | None


class Position(Row):
    """`first_position_rate`: share of the readable single verdicts that the first shown reply won, one on no side
    counting half. `agreement`: share of the principles heard in both orders (of one judge on one pair) whose two
    verdicts are on the same side.
    """

    verdicts: int
    first_position_rate: float | None
    heard_in_both_orders: int
    agreement: float | None


class Filter(Row):
    """What `filter.json` holds, of the comparisons that preference pairs are made from.

    `stage`: whose judgments. `inputs`: digest of all that was counted. `threshold`: the one in force; None where
    the judges of a cascade have different ones. `judged`: judgments; `kept`: labelled ones; `coverage`: kept /
    judged; `states`: all six. `before`: judgments whose p prefers a side, as though every such label were taken;
    `after`: labels. `kind`: what was preferred over what; a judgment counts for each of its tags and principles.
    Values come in order of size. `notes`: what to look at, in words.
    """

    stage: str
    inputs: str
    threshold: float | None
    judged: int
    kept: int
    coverage: Interval
    states: dict[JudgmentState, int]
    before: int
    after: int
    length: LengthShift
    kind: dict[str, Value]
    source: dict[str, Value]
    tag: dict[str, Value]
    principle: dict[str, Value]
    confidence: tuple[Bin, ...]
    thresholds: tuple[Point, ...]
    position: Position
    notes: tuple[str, ...] = ()
