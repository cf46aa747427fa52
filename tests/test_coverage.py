"""What each principle did: by hand on few rows, by its bounds and symmetries on many, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.config import RunConfig
from cai.constitution import Constitution
from cai.judge.label import JudgeRule, Label, label, pool
from cai.report.coverage import coverage_of, outcome_of
from cai.report.coverage_rows import Coverage
from cai.report.coverage_tally import count_judgments, count_revisions, count_verified, empty_counts, verified
from cai.rows import Candidate, Judgment, Message, Prompt, Reply, Revision, RevisionRound, Verdict

RULE = JudgeRule(0.7)
Order = Literal["ab", "ba"]
ORDERS: tuple[Order, ...] = ("ab", "ba")
Read = tuple[str, float | None, float | None]  # a principle, and P(a better) with a and with b shown first


def constitution(**principles: dict[str, Any]) -> Constitution:
    """Principles by id with the fields that matter."""
    made = [{"id": name, "statement": f"Be {name}.", **fields} for name, fields in principles.items()]
    return Constitution.model_validate({"name": "c", "version": "1", "principles": made})


SMALL = constitution(kind={}, honest={"weight": 2.0}, brief={})


def config(**judge: Any) -> RunConfig:
    """A config that judges by RULE."""
    judges = [*judge.get("jury", ()), *judge.get("cascade", ())] or ["j"]
    return RunConfig.model_validate(
        {
            "name": "c",
            "constitution": "c.yaml",
            "prompts": [{"path": "p"}],
            "models": {
                name: {"backend": "vllm", "model": name, "endpoint": "http://x/v1"} for name in (*judges, "m")
            },
            "policy": {"model": "m"},
            "critic": {"model": "m", "rounds": 2},
            "judge": {"threshold": RULE.threshold, "principles": 2, **(judge or {"model": "j"})},
        }
    )


def prompt(tags: tuple[str, ...] = ()) -> Prompt:
    """Any prompt."""
    return Prompt(id="p", messages=(Message(role="user", content="?"),), tags=tags, source="s")


def revision(name: str, *rounds: tuple[str, bool, str | None], tags: tuple[str, ...] = ()) -> Revision:
    """A revision of the text "reply" by rounds of (principle, violated, revision)."""
    reply = Reply(
        id=name, prompt=prompt(tags), sample=0, text="reply", finish_reason="stop", model="m", calls=()
    )
    made = tuple(
        RevisionRound(
            round=at, principle=principle, principle_digest="", critique="", violated=violated, revision=text, calls=(),
        )
        for at, (principle, violated, text) in enumerate(rounds)
    )  # fmt: skip
    final = next((text for _, _, text in reversed(rounds) if text is not None), reply.text)
    return Revision(id=f"{name}/v", reply=reply, rounds=made, final=final)


def verdicts(reads: Sequence[Read], judge: str = "j") -> tuple[Verdict, ...]:
    """Both verdicts of a judge under each principle."""
    return tuple(
        Verdict(judge=judge, principle=name, order=order, p=p, method="logprobs", calls=())
        for name, *found in reads
        for order, p in zip(ORDERS, found, strict=True)
    )


def judgment(
    *reads: Read, b: str = "b", kind: Literal["reply", "revision"] = "reply", in_: Constitution = SMALL
) -> Judgment:
    """What the judge `j` makes of its reads by RULE."""
    said = verdicts(reads)
    p, state, raw = label(said, in_.principles, RULE)
    return Judgment(
        id=f"a~{b}", prompt=prompt(), a=Candidate(id="a", kind="reply", text="x"),
        b=Candidate(id=b, kind=kind, text="y"), verdicts=said, p=p, p_raw=raw, state=state,
    )  # fmt: skip


def coverage(
    revisions: Sequence[Revision] = (), judgments: Sequence[Judgment] = (), in_: Constitution = SMALL
) -> Coverage:
    """Counters and figures in one."""
    counts, found = empty_counts(), config()
    known = {principle.id: principle for principle in in_.principles}
    judged = count_judgments(counts, judgments, known, outcome_of(found))
    count_verified(counts, count_revisions(counts, revisions), verified(judged))
    return coverage_of(found, in_, counts, "")


def test_revisions_by_hand() -> None:
    """Rounds count under their principle; a revision counts for all that changed the text, labels as the judge's."""
    rows = [
        revision("r1", ("kind", True, "better"), ("honest", True, "best")),
        revision("r2", ("kind", True, "reply"), ("honest", False, None)),  # revised to the same text
        revision("r3", ("kind", True, "worse")),
        revision("r4", ("honest", True, "other")),  # never judged
        revision("r5", ("kind", True, "unsure")),
        revision("r6", ("kind", False, None)),
    ]
    judged = [
        judgment(("kind", 0.1, 0.2), b="r1/v", kind="revision"),
        judgment(("kind", 0.5, 0.5), b="r9"),
        judgment(("kind", 0.9, 0.8), b="r3/v", kind="revision"),
        judgment(("kind", 0.5, 0.6), b="r5/v", kind="revision"),
    ]
    found = coverage(rows, judged)
    kind, honest, brief = (found.revising[name] for name in ("kind", "honest", "brief"))
    assert (kind.drawn, kind.violated, kind.revised) == (5, 4, 3)
    assert (kind.judged, kind.better, kind.worse, kind.undecided) == (3, 1, 1, 1)
    assert (honest.drawn, honest.violated, honest.revised) == (3, 2, 2)
    assert (honest.judged, honest.better, honest.worse, honest.undecided) == (1, 1, 0, 0)
    assert (brief.drawn, brief.better_rate.rate) == (0, None)
    assert kind.violated_rate.rate == 4 / 5 and kind.violated_rate.n == 5
    assert (found.replies, found.comparisons) == (6, 4)


def test_a_revision_undone_by_a_later_round_has_no_comparison() -> None:
    """It was revised twice, ends as it was, and cannot be judged."""
    found = coverage([revision("r", ("kind", True, "better"), ("honest", True, "reply"))])
    assert found.revising["kind"].revised == found.revising["honest"].revised == 1
    assert found.revising["kind"].judged == 0


def test_labels_by_hand() -> None:
    """Who decides is who cannot be taken away; orders, sides and silence are counted by comparison."""
    judged = [
        judgment(("kind", 0.9, 0.9), ("honest", 0.9, 0.9)),  # either is enough
        judgment(("kind", 0.9, 0.9), ("honest", 0.65, 0.65)),  # 0.73: only with kind
        judgment(("kind", 0.9, 0.9), ("honest", 0.1, 0.1)),  # 0.37: no label
        judgment(("kind", 0.4, 0.4), ("honest", 1.0, 1.0)),  # for a, against kind
        judgment(("kind", 0.9, 0.4), ("honest", 0.9, 0.8)),  # kind contradicts itself
        judgment(("kind", None, 0.9), ("honest", 0.8, 0.8)),  # kind is not heard
        judgment(("kind", 0.5, 0.5), ("honest", 0.8, 0.8)),  # kind is on no side; 0.7
    ]
    found = coverage(judgments=judged)
    kind, honest = found.judging["kind"], found.judging["honest"]
    assert [one.state for one in judged].count("labelled") == 6
    assert (kind.drawn, kind.unread, kind.inconsistent, kind.labels) == (7, 1, 1, 6)
    assert (kind.compared, kind.agreed) == (5, 3) and (honest.compared, honest.agreed) == (5, 3)
    assert kind.decided == 1 and honest.decided == 4
    assert found.judging["brief"].drawn == 0


def test_the_others_count_by_weight() -> None:
    """One honest against (weight 2) outweighs one kind for: brief is on the other side of the two."""
    found = coverage(judgments=[judgment(("kind", 0.9, 0.9), ("honest", 0.2, 0.2), ("brief", 0.9, 0.9))])
    assert (found.judging["brief"].agreed, found.judging["brief"].compared) == (0, 1)


def test_a_higher_priority_decides_and_what_it_overrides_does_not() -> None:
    """The lower principle says the contrary, and nothing changes without it."""
    two = constitution(first={"priority": 1}, second={})
    found = coverage(
        judgments=[judgment(("first", 0.9, 0.9), ("second", 0.2, 0.2), in_=two)] * 3, in_=two
    ).judging
    assert (found["first"].decided, found["second"].decided) == (3, 0)
    assert (found["first"].agreed, found["first"].compared) == (0, 3)


def test_the_label_of_several_judges_is_made_as_in_the_run() -> None:
    """A jury is pooled, of a cascade the last word holds; without a principle each judge is heard on the rest."""
    said = (
        *verdicts([("kind", 0.99, 0.99), ("honest", 0.5, 0.5)], "one"),
        *verdicts([("honest", 0.6, 0.6)], "two"),
    )
    jury, cascade = outcome_of(config(jury=["one", "two"])), outcome_of(config(cascade=["one", "two"]))
    members = [label([v for v in said if v.judge == name], SMALL.principles, RULE) for name in ("one", "two")]
    assert jury(said, SMALL.principles) == pool(members, RULE)
    assert cascade(said, SMALL.principles) == members[1]
    assert jury(said, [SMALL.principles[2]]) == Label(None, "unparsed", None)


grid = st.integers(0, 64).map(lambda k: k / 64)
reads = st.lists(
    st.tuples(st.sampled_from(["kind", "honest", "brief"]), st.none() | grid, st.none() | grid),
    min_size=1,
    max_size=3,
    unique_by=lambda read: read[0],
)
many = st.lists(reads, max_size=8)


@given(many)
def test_parts_are_never_more_than_the_whole(rows: list[list[Read]]) -> None:
    """A principle decides some of the labels of some of its comparisons; alone in one, it decides its label."""
    judged = [judgment(*row) for row in rows]
    found = coverage(judgments=judged).judging
    for name, one in found.items():
        assert one.agreed <= one.compared <= one.drawn - one.unread
        assert one.decided <= one.labels <= one.drawn
        assert one.inconsistent + one.unread <= one.drawn
        alone = [row for row in judged if {v.principle for v in row.verdicts} == {name}]
        assert one.decided >= sum(row.state == "labelled" for row in alone)
    assert sum(one.drawn for one in found.values()) == sum(map(len, rows))


@given(many)
def test_exchanging_a_and_b_changes_no_count(rows: list[list[Read]]) -> None:
    """The names of the two sides carry no meaning."""

    def other(p: float | None) -> float | None:
        return None if p is None else 1 - p

    swapped = [[(name, other(ba), other(ab)) for name, ab, ba in row] for row in rows]
    assert (
        coverage(judgments=[judgment(*row) for row in swapped]).judging
        == coverage(judgments=[judgment(*row) for row in rows]).judging
    )


@given(
    st.lists(st.lists(st.tuples(st.just(None) | grid, st.none() | grid), min_size=2, max_size=2), max_size=8)
)
def test_two_agree_as_often_as_each_other(rows: list[list[tuple[float | None, float | None]]]) -> None:
    """Agreement of two principles does not depend on whose it is called."""
    judged = [judgment(("kind", *kind), ("honest", *honest)) for kind, honest in rows]
    found = coverage(judgments=judged).judging
    assert found["kind"].compared == found["honest"].compared
    assert found["kind"].agreed == found["honest"].agreed


def said(found: Coverage) -> dict[tuple[str, str], str]:
    """The findings by kind and principle."""
    return {(one.kind, one.principle): one.message for one in found.findings}


def test_what_was_never_drawn_is_named_with_the_reason() -> None:
    """No prompt has its tag, or its weight is too small; a use that it does not have is no failing."""
    four = constitution(
        kind={}, medical={"applies_to": ["medical", "health"]}, faint={"weight": 0.01}, judged={"use": ["judge"]},
    )  # fmt: skip
    rows = [revision(f"r{n}", ("kind", True, None), tags=("other",)) for n in range(50)]
    messages = said(coverage(rows, in_=four))
    assert messages["never_drawn", "medical"] == (
        "medical was never drawn to revise: none of 50 replies has a prompt with a tag that it applies to "
        "(health, medical)"
    )
    assert messages["never_drawn", "faint"] == (
        "faint was never drawn to revise: at weight 0.01, about 1.0 draws were to be expected among the "
        "50 replies that it applies to"
    )
    assert {name for _, name in messages} == {"medical", "faint"}


def test_what_does_nothing_or_harm_is_named_where_there_is_enough_to_tell() -> None:
    """Thirty critiques without a finding, six revisions without a label for them, thirty labels without need."""

    def found(n: int) -> set[tuple[str, str]]:
        rows = [revision(f"c{at}", ("honest", False, None)) for at in range(n)]
        rows += [revision(f"r{at}", ("kind", True, "new")) for at in range(n)]
        judged = [
            judgment(("honest", 0.9, 0.9), ("brief", 0.45, 0.45), b=f"r{at}/v", kind="revision") for at in range(n)
        ]  # fmt: skip
        return set(said(coverage(rows, judged)))

    assert found(5) == {("never_drawn", "kind"), ("never_drawn", "brief")}
    few = {("never_better", "kind"), ("contradicts", "honest"), ("contradicts", "brief")}
    assert found(6) == found(5) | few == found(29)
    assert found(30) == found(29) | {("never_violated", "honest"), ("never_decides", "brief")}


def test_principles_that_repeat_each_other_are_not_said_to_decide_nothing() -> None:
    """Either makes all labels without the other, and so neither is the one to go."""
    found = coverage(judgments=[judgment(("kind", 0.9, 0.9), ("honest", 0.9, 0.9))] * 200)
    assert found.judging["kind"].decided == found.judging["honest"].decided == 0
    assert "never_decides" not in {kind for kind, _ in said(found)}


def test_revisions_that_are_mostly_worse_are_named() -> None:
    """Two of twenty better is beyond doubt, seven is not."""

    def found(better: int) -> str | None:
        rows = [revision(f"r{at}", ("kind", True, "new")) for at in range(20)]
        judged = [
            judgment(("honest", p, p), b=f"r{at}/v", kind="revision")
            for at in range(20)
            if (p := 0.1 if at < better else 0.9)
        ]
        return said(coverage(rows, judged)).get(("more_often_worse", "kind"))

    assert found(2) == "revisions under kind are more often worse than better: 18 against 2"
    assert found(7) is None


@pytest.mark.parametrize("name", ["kind", "unknown"])
def test_a_principle_that_is_not_of_the_constitution_counts_nothing(name: str) -> None:
    """Rows of another version are no reason to fail, and add no principle."""
    found = coverage([revision("r", (name, True, "new"))])
    assert set(found.revising) == {"kind", "honest", "brief"}
    assert found.revising["kind"].drawn == (name == "kind")
