"""What several judges said about one comparison → one judgment: a jury is pooled, of a cascade the last word holds.

Pure: no model is asked. Judges' files are in the order of the comparisons, so they are read beside them, row by
row, and nothing is held. A comparison that one judge lost to its endpoint is heard from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cai.errors import StoreError
from cai.judge.label import JudgeRule, Label, pool
from cai.rows import Comparison, Drop, Judgment

Answer = Judgment | Drop | None  # None: the judge was not asked
ROW_CAUSES = frozenset({"identical", "no_principle"})  # what no other judge can help


def answers(judgments: Iterable[Judgment], drops: Iterable[Drop]) -> Callable[[str], Answer]:
    """What one judge made of the comparison with this id; to be asked in the order of the comparisons."""
    kept, lost = iter(judgments), iter(drops)
    judgment, drop = next(kept, None), next(lost, None)

    def take(comparison: str) -> Answer:
        nonlocal judgment, drop
        if judgment is not None and judgment.id == comparison:
            found, judgment = judgment, next(kept, None)
            return found
        if drop is not None and drop.id == comparison:
            reason, drop = drop, next(lost, None)
            return reason
        return None

    return take


def undecided(answer: Answer) -> bool:
    """True where a cascade asks its next judge: this one gave no label, and not for a cause in the row itself."""
    if isinstance(answer, Drop):
        return answer.reason not in ROW_CAUSES
    return answer is not None and answer.state != "labelled"


def combine(
    row: Comparison, said: Sequence[Answer], *, stage: str, jury: JudgeRule | None
) -> Judgment | Drop:
    """The judgment that the judges' answers, in the config's order, add up to; a drop where none of them has one.

    `jury`: the rule of the pool; None: a cascade, in which the last judge that has an answer decides. The
    verdicts of all judges are kept. Raises StoreError where a judge is missing that must have been asked.
    """
    if said[0] is None or (jury is not None and None in said):
        raise StoreError(
            f"stage {stage}, row {row.id}: judge {said.index(None) + 1} has neither a judgment nor a drop for it; "
            f"its files are of another run: remove the folders {stage}-* and run again"
        )
    heard = [answer for answer in said if isinstance(answer, Judgment)]
    if not heard:
        lost = [answer for answer in said if isinstance(answer, Drop)]
        return lost[-1].model_copy(update={"stage": stage})
    labels = [Label(judgment.p, judgment.state, judgment.p_raw) for judgment in heard]
    p, state, p_raw = labels[-1] if jury is None else pool(labels, jury)
    verdicts = tuple(verdict for judgment in heard for verdict in judgment.verdicts)
    return Judgment(
        id=row.id, prompt=row.prompt, a=row.a, b=row.b, verdicts=verdicts, p=p, p_raw=p_raw, state=state
    )
