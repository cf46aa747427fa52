"""What an edit of a constitution means, change by change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import Constitution, Principle, draw
from cai.constitution.diff import Change, compare
from cai.constitution.principle import content_digest

KIND = {"id": "kind", "statement": "Be kind."}
TRUE = {"id": "true", "statement": "Be true.", "judge": "Which is truer?"}


def constitution(*principles: dict[str, Any], **top: Any) -> Constitution:
    return Constitution.model_validate({"name": "c", "version": "1", "principles": principles, **top})


def found(old: Constitution, new: Constitution) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(change.kind, change.principle, change.field, change.reaches) for change in compare(old, new)]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"statement": "Be very true."}, ("reworded", "true", "statement", ("revise",))),
        ({"judge": "Which one is truer?"}, ("reworded", "true", "judge", ("judge",))),
        ({"critique": "Is it true?"}, ("reworded", "true", "critique", ("revise",))),
        ({"weight": 2.0}, ("reweighted", "true", "weight", ("draw", "label"))),
        ({"weight": 1.0000001}, ("reweighted", "true", "weight", ("draw", "label"))),
        ({"priority": 1}, ("reprioritised", "true", "priority", ("label",))),
        ({"applies_to": ["harmful"]}, ("retagged", "true", "applies_to", ("draw",))),
        ({"use": ["judge"]}, ("reassigned", "true", "use", ("draw",))),
        ({"tests": [{"prompt": "?", "better": "a", "worse": "b"}]}, ("retested", "true", "tests", ("tests",))),
        ({"examples": [{"conversation": "?", "reply": "a", "critique": "fine", "violated": False}]},
         ("reworded", "true", "examples", ("revise",))),
    ],
)  # fmt: skip
def test_an_edit_is_told_by_its_meaning(edit: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """One change with its kind, and with the stages that it reaches."""
    old = constitution(KIND, TRUE)
    assert found(old, constitution(KIND, TRUE | edit)) == [expected]


def test_what_no_model_reads_reaches_nothing() -> None:
    """A statement beside own wordings, the description, the order, the order of tags."""
    own = TRUE | {"critique": "True?", "revision": "Make it true.", "applies_to": ["a", "b"]}
    old = constitution(KIND, own)
    new = constitution(own | {"statement": "Truth.", "applies_to": ["b", "a"]}, KIND, description="Read me.")
    assert found(old, new) == [("described", "", "description", ()), ("reworded", "true", "statement", ())]
    assert old.digest == new.digest


def test_principles_come_go_and_are_renamed() -> None:
    """A renamed principle is drawn anew, and says under which name it was known."""
    old = constitution(KIND, TRUE)
    new = constitution({**KIND, "id": "gentle", "weight": 3.0}, {"id": "brief", "statement": "Be brief."})
    assert found(old, new) == [
        ("renamed", "gentle", "id", ("draw", "revise", "judge")),
        ("reweighted", "gentle", "weight", ("draw", "label")),
        ("added", "brief", "statement", ("draw", "revise", "judge")),
        ("removed", "true", "statement", ("draw", "revise", "judge")),
    ]
    renamed, *_ = compare(old, new)
    assert (renamed.old, renamed.new) == ("kind", "gentle")


texts = st.sampled_from(["Be kind.", "Be true.", "Be brief.", "Is it?"])
principles = st.builds(
    Principle,
    id=st.sampled_from(["a", "b", "c", "d"]),
    statement=texts,
    critique=st.none() | texts,
    revision=st.none() | texts,
    judge=st.none() | texts,
    weight=st.sampled_from([1.0, 2.0]),
    applies_to=st.lists(st.sampled_from(["x", "y"]), unique=True).map(tuple),
    use=st.sampled_from([("revise",), ("judge",), ("judge", "revise")]),
)
constitutions = st.lists(principles, min_size=1, unique_by=lambda p: p.id).map(
    lambda found: Constitution(name="c", version="1", principles=tuple(found))
)


def asked(one: Constitution) -> str:
    """All of a constitution that can change a call, for a handful of rows of every kind."""
    return content_digest(
        [
            [p.id, p.digest(use)]
            for use in ("revise", "judge")
            for tags in ([], ["x"], ["y"])
            for row in range(8)
            for p in draw(one, seed=0, row_id=f"{row}", use=use, tags=tags, k=4)
        ]
    )


@given(constitutions, constitutions)
def test_no_change_is_missed(old: Constitution, new: Constitution) -> None:
    """What draws or reads something else has a change that says so; a version has no difference to itself."""
    assert compare(old, old) == []
    changes: list[Change] = compare(old, new)
    if asked(old) != asked(new):
        assert any(set(change.reaches) & {"draw", "revise", "judge"} for change in changes)


@given(constitutions, constitutions)
def test_the_way_back_undoes_the_way_there(old: Constitution, new: Constitution) -> None:
    """As many principles come on the way there as go on the way back, and every edit is undone."""
    there, back = compare(old, new), compare(new, old)
    mirror = {"added": "removed", "removed": "added"}
    edits = sorted(
        (mirror.get(c.kind, c.kind), c.field, c.new or "", c.old or "") for c in there if c.kind != "renamed"
    )
    undone = sorted((c.kind, c.field, c.old or "", c.new or "") for c in back if c.kind != "renamed")
    if not any(change.kind == "renamed" for change in (*there, *back)):
        assert edits == undone
