"""Do a constitution's tests hold? A test passes where the judge prefers the better reply in both orders.

Pure figures over recorded verdicts, uncalibrated: a side of one half is all that counts, how sure the judge is
does not. A verdict that could not be read, or was lost, is no pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cai.judge.cases import Case, outcome
from cai.judge.label import JudgeRule, Label, pool
from cai.judge.summary import Kind
from cai.rows import LabelledPair, Recorded, Row

DRAWN = "(drawn)"  # stands for the principle of a pair that names none


class Checked(Row):
    """One test. `p_first`, `p_second`: P(the better reply) where it is shown first, second; None: not read.

    `failure`: None where it passed; else `wrong` (the worse one is preferred in both orders), `inconsistent` (in
    one), `tie` (exactly even in some order), `unread`, or the reason for which the pair was dropped.
    """

    id: str
    prompt: str
    p_first: float | None
    p_second: float | None
    failure: str | None


class PrinciplePasses(Row):
    """The tests of one principle. `rate`: share that passed, None where there are none to pass.

    `mean_p`: mean probability of the better reply over tests and orders that were read. `skipped`: pairs whose
    gold is a tie or unknown, which no judge can pass or fail.
    """

    principle: str
    tests: int
    passed: int
    rate: float | None
    mean_p: float | None
    skipped: int
    checked: tuple[Checked, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Ids of the tests that did not pass."""
        return tuple(test.id for test in self.checked if test.failure is not None)


def passes(rows: Iterable[Recorded], lost: Iterable[tuple[LabelledPair, str]] = ()) -> list[PrinciplePasses]:
    """Passes by principle, in the order in which principles are first met. `lost`: pairs without verdicts, and why."""
    checked: dict[str, list[Checked]] = {}
    skipped: dict[str, int] = {}
    pairs: list[tuple[LabelledPair, Checked]] = [(row, _check(row)) for row in rows]
    pairs += [(pair, _checked(pair, None, None, reason)) for pair, reason in lost]
    for pair, result in pairs:
        name = pair.principle or DRAWN
        tests = checked.setdefault(name, [])
        if pair.gold in ("A", "B"):
            tests.append(result)
        else:
            skipped[name] = skipped.get(name, 0) + 1
    return [_summed(name, tests, skipped.get(name, 0)) for name, tests in checked.items()]


def together(members: Sequence[Sequence[Recorded]], kind: Kind, threshold: float) -> list[Recorded]:
    """What several judges say as one, pair by pair; pairs that no judge has a row for are left out.

    A jury's answer in each order is the pool of its members; a cascade's is that of the first judge that would
    label the pair at `threshold`, else of the last one that was read.
    """
    said: dict[str, list[Recorded]] = {}
    for rows in members:
        for row in rows:
            said.setdefault(row.id, []).append(row)
    return [_jury(rows) if kind == "jury" else _last_word(rows, threshold) for rows in said.values()]


def _jury(rows: Sequence[Recorded]) -> Recorded:
    pooled = [_pool([row.p_a_ab for row in rows]), _pool([row.p_a_ba for row in rows])]
    names = " + ".join(row.judge for row in rows)
    return rows[0].model_copy(update={"judge": names, "p_a_ab": pooled[0], "p_a_ba": pooled[1]})


def _pool(answers: Sequence[float | None]) -> float | None:
    return pool([Label(p, "unparsed" if p is None else "labelled", p) for p in answers], JudgeRule()).p


def _last_word(rows: Sequence[Recorded], threshold: float) -> Recorded:
    read = [row for row in rows if row.p_a_ab is not None and row.p_a_ba is not None]
    sure = (row for row in read if outcome(_case(row), JudgeRule(threshold), ("ab", "ba")).kept)
    return next(sure, (read or rows)[-1])


def _case(row: Recorded) -> Case:
    return Case(row.id, row.gold, row.p_a_ab, row.p_a_ba, 0.5)  # lengths play no part here


def _check(row: Recorded) -> Checked:
    """The test, seen from its better reply."""
    a_first, a_second = row.p_a_ab, row.p_a_ba
    if row.gold == "A":
        return _checked(row, a_first, a_second, _failure(a_first, a_second))
    b_first, b_second = (None if p is None else 1 - p for p in (a_second, a_first))
    return _checked(row, b_first, b_second, _failure(b_first, b_second))


def _checked(pair: LabelledPair, first: float | None, second: float | None, failure: str | None) -> Checked:
    prompt = pair.messages[-1].content
    return Checked(id=pair.id, prompt=prompt, p_first=first, p_second=second, failure=failure)


def _failure(first: float | None, second: float | None) -> str | None:
    if first is None or second is None:
        return "unread"
    if 0.5 in (first, second):
        return "tie"
    if (first > 0.5) != (second > 0.5):
        return "inconsistent"
    return None if first > 0.5 else "wrong"


def _summed(name: str, tests: Sequence[Checked], skipped: int) -> PrinciplePasses:
    passed = sum(test.failure is None for test in tests)
    read = [p for test in tests for p in (test.p_first, test.p_second) if p is not None]
    return PrinciplePasses(
        principle=name,
        tests=len(tests),
        passed=passed,
        rate=passed / len(tests) if tests else None,
        mean_p=sum(read) / len(read) if read else None,
        skipped=skipped,
        checked=tuple(tests),
    )
