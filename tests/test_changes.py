"""Differences of two files of rows: each row counted once, under what happened to it."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from cai.export.changes import compare, demonstration_print, pair_print, prompt_print
from cai.rows import Demonstration, Message, Pair, Prompt


def says(role: Literal["user", "assistant"], text: str) -> tuple[Message, ...]:
    return (Message(role=role, content=text),)


def pair(
    name: str, chosen: str = "good", rejected: str = "bad", p: float = 0.9, *, principle: str = "kind"
) -> Pair:
    """A pair about the prompt of its name."""
    return Pair(
        id=name, prompt=says("user", name), chosen=says("assistant", chosen), rejected=says("assistant", rejected),
        p=p, margin=2.0, source="samples", principles=(principle,), tags=(), lineage=name,
    )  # fmt: skip


def test_every_kind_of_change_is_counted_once() -> None:
    """Swapped, reworded, moved, other columns, gone and new; what stayed the same is none of them."""
    old = [pair(name) for name in ("same", "swapped", "reworded", "nudged", "moved", "renamed", "gone")]
    new = [
        pair("renamed", principle="honest"),
        pair("new", principle="honest"),
        pair("same"),
        pair("swapped", "bad", "good", 0.8),
        pair("reworded", "better"),
        pair("nudged", p=0.7),
        pair("moved", p=0.95),
    ]
    found = compare(map(pair_print, old), map(pair_print, new))
    assert (found.before, found.after, found.added, found.removed) == (7, 7, 1, 1)
    assert (found.relabelled, found.rewritten, found.p_moved, found.other) == (1, 1, 2, 1)
    assert found.p_moved_max is not None and abs(found.p_moved_max - 0.2) < 1e-9
    assert found.p_moved_mean is not None and abs(found.p_moved_mean - 0.125) < 1e-9
    principle = {name: (count.before, count.after) for name, count in found.groups["principle"].items()}
    assert principle == {"kind": (7, 5), "honest": (0, 2)}
    assert found.any


def test_order_is_no_change() -> None:
    """The same rows in another order are the same rows."""
    rows = [pair_print(pair(str(number))) for number in range(50)]
    found = compare(rows, reversed(rows))
    assert not found.any and (found.before, found.after) == (50, 50)
    assert found.p_moved_mean is None


def test_demonstrations_and_prompts_are_compared_too() -> None:
    """Rows with one text: another text is rewritten, never relabelled; lone surrogates are text."""
    row = Demonstration(
        id="a",
        prompt=says("user", "Hi"),
        completion=says("assistant", "Yes \ud800"),
        source="reply",
        tags=(),
        lineage="a",
    )
    other = row.model_copy(update={"completion": says("assistant", "No")})
    found = compare([demonstration_print(row)], [demonstration_print(other)])
    assert (found.rewritten, found.relabelled, found.other) == (1, 0, 0)
    assert not compare([demonstration_print(row)], [demonstration_print(row)]).any
    prompt = Prompt(id="a\ud800", messages=says("user", "Hi"), source="own")
    moved = prompt.model_copy(update={"source": "inbox"})
    found = compare([prompt_print(prompt)], [prompt_print(moved)])
    assert found.other == 1
    assert {name: (c.before, c.after) for name, c in found.groups["source"].items()} == {
        "own": (1, 0),
        "inbox": (0, 1),
    }


Rows = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.6, 0.7, 0.8]))


@given(old=Rows, new=Rows)
def test_the_counts_add_up(old: dict[str, float], new: dict[str, float]) -> None:
    """Rows before, less removed, plus added, are the rows after; backwards the two change places."""
    forward = [[pair_print(pair(name, p=p)) for name, p in rows.items()] for rows in (old, new)]
    found, back = compare(*forward), compare(*reversed(forward))
    assert found.before - found.removed + found.added == found.after == len(new)
    assert (found.added, found.removed, found.p_moved) == (back.removed, back.added, back.p_moved)
    assert found.p_moved == sum(old[name] != new[name] for name in old.keys() & new.keys())
    assert found.any == (old != new)
