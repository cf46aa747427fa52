"""An audit planned before it begins: how many rows to look at, so that the judge's accuracy is known well enough.

The plan is a file of the run (`audit-plan.json`), and names the rows by a seed alone: the sample is the first so many
rows in the seed's order, shown in that order, so whatever has been marked at any moment is a random sample too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from cai.errors import ConfigError
from cai.given import read_given
from cai.marks.bounds import sample_size
from cai.marks.mark import Answer, Key, Time, now
from cai.marks.sample import Drawn, Of, Place, draw_rows, lot, population
from cai.rows import Row
from cai.store import decode, explain, guard, write_json

PLAN = "audit-plan.json"


class AuditPlan(Row):
    """How large the audit is, and why. `of`: the rows it is about: `labelled` ones, or all `scored` ones.

    `margin`: how well the accuracy is to be known, ± so much in [0, 1] at 95 %, if it is as `expected`; at 0.5 it is
    whatever it turns out to be. `size`: rows to look at, of `rows` that there were.
    """

    of: Of
    margin: Annotated[float, Field(gt=0, lt=1)]
    expected: Annotated[float, Field(ge=0, le=1)]
    seed: int
    size: int
    rows: int
    author: str
    at: Time


class Audit(NamedTuple):
    """A plan, and the rows that it draws now."""

    plan: AuditPlan
    drawn: Drawn

    @property
    def sample(self) -> tuple[Place, ...]:
        """The rows to look at, in their order."""
        return self.drawn.places

    @property
    def size(self) -> int:
        """How many rows the sample is drawn from."""
        return self.drawn.size(self.plan.of)


def make_plan(run: Path, *, of: Of, margin: float, expected: float, seed: int, author: str) -> AuditPlan:
    """Plan an audit of a run and store the plan; one that was there is replaced, its marks stay.

    Raises ConfigError for a margin or an expectation that is none, and where the run has no such rows.
    """
    if not 0 < margin < 1:
        raise ConfigError(f"margin {100 * margin:g}: give points above 0 and below 100, for example 5")
    if not 0 <= expected <= 1:
        raise ConfigError(f"expected {expected:g}: give a share from 0 to 1, for example 0.9")
    rows = population(run).size(of)
    if not rows:
        raise ConfigError(f"{run}: it has no {of} rows to look at; let its judge run first")
    size = sample_size(margin, rows, expected)
    plan = AuditPlan(
        of=of, margin=margin, expected=expected, seed=seed, size=size, rows=rows, author=author, at=now()
    )
    write_json(run / PLAN, plan)
    return plan


def read_audit(run: Path) -> Audit | None:
    """The planned audit with its rows as the run has them now; None where none is planned. Raises StoreError."""
    path = run / PLAN
    with guard(path):
        if not path.exists():
            return None
        data = read_given(path)
    try:
        plan = decode(data, AuditPlan)
    except ValueError as error:
        raise ConfigError(f"{path}: not a plan of an audit ({explain(error)}); plan it again") from error
    return Audit(plan, draw_rows(run, of=plan.of, seed=plan.seed, n=plan.size))


def swapped(seed: int, key: Key) -> bool:
    """Whether a row is shown with b first; by the seed and the row alone."""
    return lot(seed, key, "order")[0] % 2 == 1


def answer_of(choice: str, seed: int, key: Key) -> Answer | None:
    """What a blind choice (`first`, `second`, `tie`, `unusable`) means for a row; None for no such choice."""
    if choice in ("tie", "unusable"):
        return "tie" if choice == "tie" else "unusable"
    if choice in ("first", "second"):
        return "A" if (choice == "first") != swapped(seed, key) else "B"
    return None
