"""What an edit of a constitution means: principle by principle, and which stages of a run it reaches.

Two versions are compared as a run sees them, with `extends` resolved: comments, layout, order and the wording of
a field that no model reads are no difference to a run. Which calls an edit costs is `cai.plan`'s business.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

from cai.constitution import Constitution, Principle, Use
from cai.rows import Row

Kind = Literal[
    "added", "removed", "renamed", "reworded", "reweighted", "retagged", "reprioritised", "reassigned",
    "retested", "described",
]  # fmt: skip
Reach = Literal["draw", "revise", "judge", "label", "tests"]


class Change(Row):
    """One change of meaning. `principle`: its id, the new one of a renamed principle; empty for the file's own fields.

    `field`, `old`, `new`: which field and its two values as text; a principle that came or went has its statement.
    `reaches`: what it may change in a run: which rows draw the principle, what critiques and revisions or judges
    read, how verdicts become labels, the tests. Empty: nothing, it is for readers only.
    """

    kind: Kind
    principle: str
    field: str
    old: str | None
    new: str | None
    reaches: tuple[Reach, ...]


class _Field(NamedTuple):
    kind: Kind
    reaches: tuple[Reach, ...]


_FIELDS: dict[str, _Field] = {
    "weight": _Field("reweighted", ("draw", "label")),
    "priority": _Field("reprioritised", ("label",)),
    "applies_to": _Field("retagged", ("draw",)),
    "use": _Field("reassigned", ("draw",)),
    "tests": _Field("retested", ("tests",)),
}
_WORDINGS = ("statement", "critique", "revision", "judge", "examples")


def compare(old: Constitution, new: Constitution) -> list[Change]:
    """All changes from `old` to `new`: the file's own, then by principle in the order of `new`, then removed ones.

    A principle whose wording came back under another id is renamed. The order of principles, of tags and of uses
    is no change.
    """
    before = {principle.id: principle for principle in old.principles}
    after = {principle.id: principle for principle in new.principles}
    gone = [principle for principle in old.principles if principle.id not in after]
    changes = [
        Change(kind="described", principle="", field=name, old=was, new=is_, reaches=())
        for name in ("name", "version", "description")
        if (was := getattr(old, name)) != (is_ := getattr(new, name))
    ]
    for principle in new.principles:
        if (known := before.get(principle.id)) is not None:
            changes += _edits(known, principle)
            continue
        twin = next((other for other in gone if _wording(other) == _wording(principle)), None)
        if twin is None:
            changes.append(_whole("added", principle))
            continue
        gone.remove(twin)
        renamed = _whole("renamed", principle)
        changes.append(renamed.model_copy(update={"field": "id", "old": twin.id, "new": principle.id}))
        changes += _edits(twin, principle)
    return changes + [_whole("removed", principle) for principle in gone]


def _whole(kind: Kind, principle: Principle) -> Change:
    """A principle that came or went as a whole."""
    return Change(
        kind=kind,
        principle=principle.id,
        field="statement",
        old=principle.statement if kind == "removed" else None,
        new=None if kind == "removed" else principle.statement,
        reaches=("draw", *_ordered(principle.use)),
    )


def _edits(old: Principle, new: Principle) -> list[Change]:
    """What is different between two versions of one principle."""
    changes = []
    for name in (*_WORDINGS, *_FIELDS):
        was, is_ = _shown(old, name), _shown(new, name)
        if was != is_:
            kind, reaches = _FIELDS.get(name) or _Field("reworded", _reached(old, new, name))
            changes.append(Change(kind=kind, principle=new.id, field=name, old=was, new=is_, reaches=reaches))
    return changes


def _reached(old: Principle, new: Principle, field: str) -> tuple[Reach, ...]:
    """The stages that read something else because of one reworded field; none that has its own wording instead."""
    edited = old.model_copy(update={field: getattr(new, field)})
    used = _ordered(set(old.use) & set(new.use))
    return tuple(use for use in used if edited.digest(use) != old.digest(use))


def _ordered(uses: Collection[Use]) -> list[Use]:
    return [use for use in get_args(Use) if use in uses]


def _wording(principle: Principle) -> tuple[str, str]:
    return principle.digest("revise"), principle.digest("judge")


def _shown(principle: Principle, field: str) -> str | None:
    """A field as text, the same for values that mean the same; None where it is not set."""
    value = getattr(principle, field)
    if field in ("examples", "tests"):
        return "\n".join(item.model_dump_json() for item in value) or None
    if field in ("applies_to", "use"):
        return ", ".join(sorted(set(value))) or None
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return None if value is None else str(value)
