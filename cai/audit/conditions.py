"""`--fail-on`: the shares at which an audit exits 1, read before anything is audited and checked after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cai.audit.findings import Check
from cai.evaluate.require import HOLDS, bound_of, parts_of

OPTION = "--fail-on"


class Condition(NamedTuple):
    """The audit fails where the share of `check` stands in `relation` to `bound`."""

    check: str
    relation: str
    bound: float


def read_conditions(text: str | None, known: Sequence[str]) -> list[Condition]:
    """The conditions of `--fail-on`, with commas between; none for None. Raises ConfigError, also for unknown names."""
    if text is None:
        return []
    return [_condition(part.strip(), known) for part in text.split(",")]


def failures(
    conditions: Sequence[Condition], checks: Mapping[str, Check], figures: Mapping[str, float | None]
) -> list[str]:
    """A line for each condition that holds, and for each whose share could not be measured.

    `figures`: shares that are no check, by name.
    """
    found: list[str] = []
    for name, relation, bound in conditions:
        share = figures[name] if name in figures else checks[name].share
        wanted = f"must not be {relation} {bound:g}"
        if share is None:
            why = f" ({checks[name].note})" if name in checks else ""
            found.append(f"{name} was not measured, {wanted}{why}")
        elif HOLDS[relation](share, bound):
            found.append(f"{name} {_plain(share)}, {wanted}")
    return found


def _condition(text: str, known: Sequence[str]) -> Condition:
    form = f"CHECK, one of {' '.join(HOLDS)} and a share, as in duplicates>0.01"
    subject, check, relation, number = parts_of(OPTION, text, form, known, "check")
    if subject is not None:
        parts_of(OPTION, text, form, (), f"check {subject}.")
    assert check is not None and relation is not None
    return Condition(check, relation, bound_of(OPTION, number, text))


def _plain(share: float) -> str:
    return f"{share:.4f}".rstrip("0").rstrip(".") if share >= 0.0001 or share == 0 else f"{share:.1e}"
