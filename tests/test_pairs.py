"""Judgments → pairs and demonstrations: nothing is lost without a reason, chosen is what the judge preferred."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cai.rows import (
    Candidate,
    Demonstration,
    Drop,
    Judgment,
    JudgmentState,
    Message,
    Pair,
    Prompt,
    Reply,
    Revision,
    RevisionRound,
    Verdict,
)
from cai.stages.judge import comparisons, revised
from cai.stages.pairs import demonstrations, pairs


def prompt(name: str = "p", tags: tuple[str, ...] = ()) -> Prompt:
    return Prompt(id=name, messages=(Message(role="user", content=f"ask {name}"),), tags=tags, source="test")


def reply(name: str = "p", sample: int = 0, text: str = "first", tags: tuple[str, ...] = ()) -> Reply:
    return Reply(
        id=f"{name}/r{sample}", prompt=prompt(name, tags), sample=sample, text=text, finish_reason="stop", model="m",
        calls=("c",),
    )  # fmt: skip


def revision(of: Reply, final: str, violated: bool = True) -> Revision:
    done = RevisionRound(
        round=0, principle="kind", principle_digest="d", critique="rude", violated=violated,
        revision=final if violated else None, calls=("c",),
    )  # fmt: skip
    return Revision(id=f"{of.id}/v", reply=of, rounds=(done,), final=final)


def judgment(a: Reply, b: Candidate, p: float | None, state: JudgmentState = "labelled") -> Judgment:
    first = Candidate(id=a.id, kind="reply", text=a.text)
    verdict = Verdict(judge="j", principle="kind", order="ab", p=p, method="logprobs", calls=("c",))
    return Judgment(
        id=f"{a.id}~{b.id}", prompt=a.prompt, a=first, b=b, verdicts=(verdict,), p=p, p_raw=p, state=state
    )  # fmt: skip


def side(row: Revision) -> Candidate:
    return Candidate(id=row.id, kind="revision", text=row.final)


@given(
    st.lists(st.tuples(st.floats(0.7, 1), st.booleans(), st.sampled_from(["labelled", "tie", "unparsed"])))
)
def test_every_judgment_is_a_pair_or_a_drop(rows: list[tuple[float, bool, JudgmentState]]) -> None:
    """Counts add up, p is that of the chosen side, and the chosen side is the judge's."""
    found = []
    for index, (p, flip, state) in enumerate(rows):
        a = reply(f"p{index}")
        p = 1 - p if flip else p
        found.append(judgment(a, side(revision(a, "second")), None if state == "unparsed" else p, state))
    out = list(pairs(found))
    assert len(out) == len(found)
    for row, source in zip(out, found, strict=True):
        if isinstance(row, Drop):
            assert row.reason == source.state
            continue
        assert isinstance(row, Pair) and source.p is not None
        assert row.p == max(source.p, 1 - source.p) and (row.margin or 0) > 0
        assert row.chosen[0].content == ("first" if source.p > 0.5 else "second")


def test_repeated_texts_are_one_pair() -> None:
    """The same two texts for one prompt make one pair; for another prompt they are another pair."""
    a = reply()
    b = Candidate(id="p/r1", kind="reply", text="second")
    twice = [
        judgment(a, b, 0.9),
        judgment(a, b.model_copy(update={"id": "p/r2"}), 0.9),
        judgment(reply("q"), b, 0.9),
    ]
    assert [row.reason if isinstance(row, Drop) else "pair" for row in pairs(twice)] == [
        "pair",
        "duplicate",
        "pair",
    ]


def test_demonstrations_are_verified() -> None:
    """A revision is imitated only where the judge found it better; a clean reply only for the wanted tags."""
    good, worse, unsure, silent, clean, harmful, same = (reply(name) for name in "abcdefg")
    rows = [revision(row, "second") for row in (good, worse, unsure, silent)]
    rows += [
        revision(clean.model_copy(update={"prompt": prompt("e", ("helpful",))}), "first", violated=False)
    ]
    rows += [revision(harmful, "first", violated=False), revision(same, "first")]
    labels = [
        judgment(good, side(rows[0]), 0.1),
        judgment(worse, side(rows[1]), 0.9),
        judgment(unsure, side(rows[2]), 0.45, "below_threshold"),
    ]
    out = list(demonstrations(rows, labels, ["helpful"]))
    assert [row.reason if isinstance(row, Drop) else row.source for row in out] == [
        "revision", "revision_worse", "revision_below_threshold", "not_judged", "reply", "no_violation_found",
        "unchanged_revision",
    ]  # fmt: skip
    assert isinstance(out[0], Demonstration) and out[0].completion[0].content == "second"
    assert isinstance(list(demonstrations(rows, labels, None))[5], Demonstration)


def test_comparisons_follow_the_prompts() -> None:
    """Every two samples and every changed revision, also where replies or revisions of a prompt are missing."""
    replies = [reply("a"), reply("a", 1, "x"), reply("b", 1), reply("c")]
    revisions = [revision(replies[0], "second"), revision(replies[3], "first", violated=False)]
    assert [row.id for row in comparisons(replies, revisions, ("samples", "revision"))] == [
        "a/r0~a/r1",
        "a/r0~a/r0/v",
    ]
    assert [row.id for row in comparisons(replies, revisions, ("revision",))] == ["a/r0~a/r0/v"]
    assert list(revised(revisions)) == list(comparisons(replies, revisions, ("revision",)))
    late = [revision(replies[3], "second")]
    assert [row.id for row in comparisons(replies, late, ("revision",))] == ["c/r0~c/r0/v"]
