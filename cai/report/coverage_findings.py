"""Which principles do nothing, or work against the others, in words; silent where the numbers are too small to tell.

"Never" needs ENOUGH rows that could have shown the contrary; "against" holds only beyond doubt, by the exact
binomial test by which a judge is refused (`cai.judge.qualify`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cai.constitution import Constitution, Principle, Use
from cai.judge.qualify import DOUBT, beyond_doubt
from cai.report.coverage_rows import Finding, Judging, Revising

ENOUGH = 30  # without a single case among so many, the rate is below 12 % (Wilson, 95 %)


class Rows(NamedTuple):
    """The rows of one use by the tags of their prompts, and how many principles each draws."""

    tags: Counter[tuple[str, ...]]
    drawn: int


def findings(
    constitution: Constitution,
    rows: Mapping[Use, Rows],
    revising: Mapping[str, Revising],
    judging: Mapping[str, Judging],
) -> Iterator[Finding]:
    """All findings, by principle in the order of the constitution."""
    for principle in constitution.principles:
        drawn: dict[Use, int] = {
            "revise": revising[principle.id].drawn,
            "judge": judging[principle.id].drawn,
        }
        for use in principle.use:
            if not drawn[use] and rows[use].tags:
                yield _never_drawn(constitution, principle, use, rows[use])
        yield from _revisions(principle.id, revising[principle.id])
        yield from _contradiction(principle.id, judging[principle.id])
        yield from _never_decides(principle.id, judging)


def _never_drawn(constitution: Constitution, principle: Principle, use: Use, rows: Rows) -> Finding:
    """Because no prompt has its tag, or because its weight is small for so few rows."""
    what, total = ("replies" if use == "revise" else "comparisons"), rows.tags.total()
    met = Counter({tags: n for tags, n in rows.tags.items() if _applies(principle, tags)})
    if not met:
        wanted = ", ".join(sorted(principle.applies_to))
        why = f"none of {total:,} {what} has a prompt with a tag that it applies to ({wanted})"
    else:
        expected = sum(n * _chance(constitution, principle, use, tags, rows.drawn) for tags, n in met.items())
        why = (
            f"at weight {principle.weight:g}, about {expected:.1f} draws were to be expected among the "
            f"{met.total():,} {what} that it applies to"
        )
    return Finding(
        kind="never_drawn", principle=principle.id, message=f"{principle.id} was never drawn to {use}: {why}"
    )


def _applies(principle: Principle, tags: tuple[str, ...]) -> bool:
    return not principle.applies_to or not set(principle.applies_to).isdisjoint(tags)


def _chance(
    constitution: Constitution, principle: Principle, use: Use, tags: tuple[str, ...], drawn: int
) -> float:
    """About how likely a row with these tags draws the principle: its share of the weights, for each draw."""
    others = [one for one in constitution.principles if use in one.use and _applies(one, tags)]
    return min(1.0, drawn * principle.weight / sum(one.weight for one in others))


def _revisions(name: str, found: Revising) -> Iterator[Finding]:
    if not found.violated and found.drawn >= ENOUGH:
        message = f"{name} never found a violation, in {found.drawn:,} critiques"
        yield Finding(kind="never_violated", principle=name, message=message)
    if not found.better and beyond_doubt(0, found.judged):
        message = f"no revision under {name} was verified better, of {found.judged:,} judged"
        yield Finding(kind="never_better", principle=name, message=message)
    elif beyond_doubt(found.better, found.better + found.worse):
        message = f"revisions under {name} are more often worse than better: {found.worse:,} against {found.better:,}"
        yield Finding(kind="more_often_worse", principle=name, message=message)


def _contradiction(name: str, found: Judging) -> Iterator[Finding]:
    if beyond_doubt(found.agreed, found.compared):
        share = found.agreed / found.compared
        message = (
            f"{name} contradicts the others: on their side in {found.agreed:,} of {found.compared:,} "
            f"comparisons ({share:.0%})"
        )
        yield Finding(kind="contradicts", principle=name, message=message)


def _never_decides(name: str, judging: Mapping[str, Judging]) -> Iterator[Finding]:
    """Few labels hang on one principle where they repeat each other: none is too few only beside the others."""
    found, others = judging[name], [one for other, one in judging.items() if other != name]
    labels = sum(one.labels for one in others)
    share = sum(one.decided for one in others) / labels if labels else 0.0
    if not found.decided and found.labels >= ENOUGH and (1 - share) ** found.labels < DOUBT:
        message = (
            f"{name} never decides: none of the {found.labels:,} labels that it was asked about hangs on it; "
            f"of the others' {share:.0%} do"
        )
        yield Finding(kind="never_decides", principle=name, message=message)
