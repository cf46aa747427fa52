"""What an edit changed: matched rows, moved draws and labels, by hand and by the symmetry of before and after."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from cai.report.edit_rows import Example, Judgments, Met, Revisions
from cai.report.edit_tally import compare_judgments, compare_pairs, compare_revisions
from cai.rows import Candidate, Judgment, Message, Pair, Prompt, Reply, Revision, RevisionRound, Verdict
from cai.store.join import joined

PROMPT = Prompt(id="p", messages=(Message(role="user", content="?"),), source="s")


class Thing(NamedTuple):
    """A row of nothing but an id."""

    id: str


def judgment(
    name: str, p: float | None, state: Any, *principles: str, call: str = "", text: str = "x"
) -> Judgment:
    """A judgment whose verdicts come from calls named after their principle and `call`."""
    verdicts = tuple(
        Verdict(judge="j", principle=one, order=order, p=p, method="logprobs", calls=(f"{one}{order}{call}",))
        for one in principles
        for order in ("ab", "ba")
    )
    return Judgment(
        id=name, prompt=PROMPT, a=Candidate(id="a", kind="reply", text=text),
        b=Candidate(id="b", kind="reply", text="y"), verdicts=verdicts, p=p, p_raw=p, state=state,
    )  # fmt: skip


def revision(name: str, *rounds: tuple[str, bool, str], reply: str = "reply") -> Revision:
    """A revision by rounds of (principle, violated, call); each violation gives a text named after the call."""
    made = tuple(
        RevisionRound(
            round=at, principle=one, principle_digest="", critique=f"critique {call}", violated=violated,
            revision=f"text {call}" if violated else None, calls=(call,),
        )
        for at, (one, violated, call) in enumerate(rounds)
    )  # fmt: skip
    final = next((done.revision for done in reversed(made) if done.revision is not None), reply)
    whole = Reply(id=name, prompt=PROMPT, sample=0, text=reply, finish_reason="stop", model="m", calls=())
    return Revision(id=f"{name}/v", reply=whole, rounds=made, final=final)


def revisions(old: list[Revision], new: list[Revision], *, whole: bool = True) -> Revisions:
    """The comparison, without its examples."""
    return compare_revisions(old, new, [], whole=whole)


def moves(met: Met) -> dict[tuple[str | None, str | None], int]:
    """Moves by (before, after)."""
    return {(move.before, move.after): move.rows for move in met.moves}


def test_revisions_by_hand() -> None:
    """Moved, asked again, untouched and of another reply are told apart; critiques are matched by principle."""
    old = [
        revision("same", ("kind", True, "1")),
        revision("moved", ("kind", True, "2"), ("brief", False, "3")),
        revision("reworded", ("kind", False, "4")),
        revision("other", ("kind", False, "5")),
        revision("gone", ("kind", False, "6")),
        revision("order", ("kind", False, "7"), ("brief", False, "8")),
        revision("none"),
    ]
    new = [
        revision("same", ("kind", True, "1")),
        revision("moved", ("honest", True, "2'"), ("brief", True, "3'")),
        revision("reworded", ("kind", True, "4'")),
        revision("other", ("kind", True, "5'"), reply="another"),
        revision("order", ("brief", False, "8"), ("kind", False, "7")),
        revision("none", ("honest", False, "9")),
        revision("new", ("kind", False, "10")),
    ]
    found = revisions(old, new)
    assert (found.before, found.after, found.met.both) == (7, 7, 6)
    met = found.met
    assert (met.moved, met.reordered, met.asked_again, met.untouched, met.other_texts) == (2, 1, 1, 1, 1)
    assert moves(found.met) == {("kind", "honest"): 1, (None, "honest"): 1}
    assert (found.critiques, found.found, found.cleared, found.rewritten) == (5, 2, 0, 2)


def test_a_chain_that_ends_early_has_not_moved() -> None:
    """Where a chain stops at the first clean critique, later principles were not met; elsewhere they are missing."""
    old = [revision("r", ("kind", True, "1"), ("brief", False, "2"))]
    new = [revision("r", ("kind", False, "1'"))]
    assert revisions(old, new, whole=False).met.moved == 0
    assert moves(revisions(old, new).met) == {("brief", None): 1}


def test_labels_by_hand() -> None:
    """Gained, lost, turned round and moved; a comparison of other texts has none of these."""
    rows = [
        ("kept", (0.9, "labelled"), (0.85, "labelled")),
        ("flipped", (0.9, "labelled"), (0.1, "labelled")),
        ("lost", (0.9, "labelled"), (0.6, "below_threshold")),
        ("gained", (None, "unparsed"), (0.9, "labelled")),
        ("moved", (0.6, "below_threshold"), (0.3, "inconsistent")),
    ]
    old = [judgment(name, p, state, "kind") for name, (p, state), _ in rows]
    new = [judgment(name, p, state, "kind", call="again") for name, _, (p, state) in rows]
    old.append(judgment("other", 0.9, "labelled", "kind"))
    new.append(judgment("other", 0.1, "labelled", "kind", text="z"))
    examples: list[Example] = []
    found = compare_judgments(old, new, examples)
    assert (found.gained, found.lost, found.flipped, found.p_moved) == (1, 1, 1, 3)
    assert found.states == {
        "below_threshold → inconsistent": 1, "labelled → below_threshold": 1, "unparsed → labelled": 1,
    }  # fmt: skip
    assert (found.met.asked_again, found.met.other_texts) == (5, 1)
    assert [(one.id, one.title) for one in examples] == [
        ("flipped", "label turned round"), ("lost", "no label any more"), ("gained", "now a label"),
    ]  # fmt: skip
    assert examples[1].before == "labelled, P(first better) 0.90, by kind"
    assert examples[1].after == "below threshold, P(first better) 0.60, by kind"


def test_the_order_of_principles_is_nothing_to_a_judge() -> None:
    """A draw that only ranks the same principles otherwise asks the same calls."""
    old, new = (
        judgment("j", 0.9, "labelled", "kind", "brief"),
        judgment("j", 0.9, "labelled", "brief", "kind"),
    )
    assert compare_judgments([old], [new], []).met.untouched == 1


def test_pairs_by_hand() -> None:
    """The same, turned round, of other texts, come and gone."""

    def pair(name: str, chosen: str, rejected: str) -> Pair:
        texts = [(Message(role="assistant", content=text),) for text in (chosen, rejected)]
        return Pair(
            id=name, prompt=PROMPT.messages, chosen=texts[0], rejected=texts[1], p=0.9, margin=1.0, source="samples",
            principles=("kind",), tags=(), lineage=name,
        )  # fmt: skip

    old = [pair("1", "x", "y"), pair("2", "x", "y"), pair("3", "x", "y"), pair("4", "x", "y")]
    found = compare_pairs(
        old, [pair("1", "x", "y"), pair("2", "y", "x"), pair("3", "x", "z"), pair("5", "x", "y")]
    )
    assert (found.before, found.after, found.both, found.swapped, found.rewritten) == (4, 4, 3, 1, 1)


def test_examples_are_few_and_can_be_written() -> None:
    """Three of a kind; long texts are cut, and lone surrogates replaced."""
    old = [revision(f"{n}\ud800", ("kind", False, "1")) for n in range(9)]
    new = [revision(f"{n}\ud800", ("kind", True, "é" * 3000)) for n in range(9)]
    examples: list[Example] = []
    compare_revisions(old, new, examples, whole=True)
    assert (
        [one.kind for one in examples].count("critique")
        == [one.kind for one in examples].count("revision")
        == 3
    )
    assert examples[0].id == "0?/v" and len(examples[0].after) == 2000
    assert all(one.model_dump_json() for one in examples)


ids = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(ids, ids)
def test_every_row_is_matched_by_its_id(ones: list[str], twos: list[str]) -> None:
    """Whatever the order, each row comes once, beside its match where there is one."""
    found = list(joined(map(Thing, ones), map(Thing, twos)))
    assert all(one is None or two is None or one == two for one, two in found)
    assert sorted(one.id for one, _ in found if one) == sorted(ones)
    assert sorted(two.id for _, two in found if two) == sorted(twos)
    assert sum(one is not None and two is not None for one, two in found) == len(set(ones) & set(twos))


@st.composite
def versions(draw: st.DrawFn) -> tuple[list[Judgment], list[Judgment]]:
    """Two versions of judgments, of which some are the same."""

    def version() -> list[Judgment]:
        found = []
        for name in draw(ids):
            p = draw(st.sampled_from([None, 0.1, 0.3, 0.5, 0.65, 0.9]))
            state = "unparsed" if p is None else draw(st.sampled_from(["labelled", "below_threshold", "tie"]))
            principles = draw(st.lists(st.sampled_from(["kind", "honest", "brief"]), min_size=1, unique=True))
            call, text = draw(st.sampled_from(["", "again"])), draw(st.sampled_from(["x", "z"]))
            found.append(judgment(name, p, state, *principles, call=call, text=text))
        return found

    return version(), version()


def mirrored(found: Judgments) -> Judgments:
    """What the comparison the other way round must say."""
    states = {" → ".join(reversed(change.split(" → "))): n for change, n in found.states.items()}
    turned = [
        move.model_copy(update={"before": move.after, "after": move.before}) for move in found.met.moves
    ]
    return found.model_copy(
        update={
            "before": found.after,
            "after": found.before,
            "gained": found.lost,
            "lost": found.gained,
            "states": dict(sorted(states.items())),
            "met": found.met.model_copy(update={"moves": tuple(sorted(turned, key=repr))}),
        }
    )


def ordered(found: Judgments) -> Judgments:
    """The same without the order of its tables."""
    met = found.met.model_copy(update={"moves": tuple(sorted(found.met.moves, key=repr))})
    return found.model_copy(update={"states": dict(sorted(found.states.items())), "met": met})


@given(versions())
def test_before_and_after_mirror_each_other(rows: tuple[list[Judgment], list[Judgment]]) -> None:
    """Exchanging the two versions exchanges what came with what went, and nothing else."""
    old, new = rows
    assert ordered(compare_judgments(new, old, [])) == mirrored(compare_judgments(old, new, []))


@given(versions(), st.randoms(use_true_random=False))
def test_a_version_is_the_same_as_itself(rows: tuple[list[Judgment], list[Judgment]], random: Random) -> None:
    """In any order of its rows."""
    old, examples = rows[0], list[Example]()
    found = compare_judgments(old, random.sample(old, len(old)), examples)
    assert found.met.untouched == found.met.both == found.before == found.after == len(old)
    assert not (found.gained or found.lost or found.flipped or found.p_moved or found.states or examples)


@given(versions())
def test_counts_add_up(rows: tuple[list[Judgment], list[Judgment]]) -> None:
    """Each row of both versions met the constitution in one of five ways; labels before and after balance."""
    old, new = rows
    found = compare_judgments(old, new, [])
    met = found.met
    assert met.moved + met.reordered + met.asked_again + met.untouched + met.other_texts == met.both
    assert (found.before, found.after) == (len(old), len(new))
    after = {row.id: row for row in new}
    both = [(row, after[row.id]) for row in old if row.id in after and after[row.id].a == row.a]
    assert found.gained - found.lost == sum(
        (now.state == "labelled") - (was.state == "labelled") for was, now in both
    )
