"""Several judges: every comparison gets one row whoever was asked, stages follow the config, savings add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.config import RunConfig
from cai.errors import StoreError
from cai.judge.label import JudgeRule, Label, pool
from cai.judges.stages import judge_stages, judged_sources
from cai.pipeline import job_of, role_of
from cai.report.judges import JudgeUse, judges_of
from cai.report.status import stage_names
from cai.report.tables import saving_line
from cai.rows import Candidate, Comparison, Drop, Judgment, JudgmentState, Message, Prompt, Verdict
from cai.stages.combine import Answer, answers, combine, undecided
from cai.stages.pairs import pairs
from tests.flows.small import small_config, write_inputs

RULE = JudgeRule(0.7)
outcomes = st.sampled_from(
    ["labelled", "below_threshold", "inconsistent", "tie", "unparsed", "refused", "malformed", "bad_request"]
)
rows = st.lists(st.none() | st.lists(outcomes, min_size=3, max_size=3), min_size=1, max_size=12)


def comparison(index: int) -> Comparison:
    prompt = Prompt(id=f"p{index}", messages=(Message(role="user", content="hi"),), source="test")
    a, b = (Candidate(id=f"p{index}/r{n}", kind="reply", text=f"reply {n}") for n in (0, 1))
    return Comparison(id=f"{a.id}~{b.id}", prompt=prompt, a=a, b=b)


def said_by(judge: str, row: Comparison, outcome: str, p: float = 0.9) -> Judgment | Drop:
    """A judge's answer: a judgment in that state, or a drop for that reason."""
    if outcome in ("malformed", "bad_request", "identical"):
        return Drop(id=row.id, stage=f"judge-{judge}", reason=outcome)
    state: JudgmentState = outcome  # type: ignore[assignment]
    known = None if state in ("unparsed", "refused") else 0.5 if state == "tie" else p
    verdict = Verdict(judge=judge, principle="kind", order="ab", p=known, method="logprobs", calls=("c",))
    return Judgment(
        id=row.id, prompt=row.prompt, a=row.a, b=row.b, verdicts=(verdict,), p=known, p_raw=known, state=state
    )


def files(said: list[Judgment | Drop]) -> tuple[list[Judgment], list[Drop]]:
    """Rows and drops as a stage publishes them."""
    kept = [answer for answer in said if isinstance(answer, Judgment)]
    return kept, [answer for answer in said if isinstance(answer, Drop)]


@given(rows)
def test_a_cascade_loses_nothing_and_asks_only_what_is_left(drawn: list[list[str] | None]) -> None:
    """Each tier is asked what the one before left; the last answer decides and the verdicts of all stay."""
    todo = [comparison(index) for index in range(len(drawn))]
    plan = {row.id: outcomes for row, outcomes in zip(todo, drawn, strict=True)}  # None: identical texts
    tiers: list[list[Judgment | Drop]] = []
    for tier, name in enumerate("xyz"):
        before = answers(*files(tiers[-1])) if tiers else None
        reads = [row for row in todo if before is None or undecided(before(row.id))]
        told = [said_by(name, row, "identical" if (o := plan[row.id]) is None else o[tier]) for row in reads]
        tiers.append(told)
    takes = [answers(*files(tier)) for tier in tiers]
    for row in todo:
        found = combine(row, [take(row.id) for take in takes], stage="judge", jury=None)
        assert found.id == row.id
        outcomes = plan[row.id]
        if outcomes is None:
            assert found == Drop(id=row.id, stage="judge", reason="identical")
            continue
        asked = outcomes[: outcomes.index("labelled") + 1] if "labelled" in outcomes else outcomes
        answered = [
            (n, o) for n, o in zip("xyz", asked, strict=False) if o not in ("malformed", "bad_request")
        ]
        if not answered:
            assert found == Drop(id=row.id, stage="judge", reason=asked[-1])
            continue
        assert isinstance(found, Judgment)
        assert found.state == answered[-1][1]
        assert [verdict.judge for verdict in found.verdicts] == [name for name, _ in answered]
    assert [take(row.id) for take in takes for row in todo] == [None] * 3 * len(todo)  # all files were read


@given(st.lists(outcomes, min_size=2, max_size=3), st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3))
def test_a_jury_is_the_pool_of_those_that_answered(drawn: list[str], p: list[float]) -> None:
    """A member that lost the comparison to its endpoint is left out; where all did, one drop remains."""
    row = comparison(0)
    told: list[Answer] = [said_by(n, row, o, q) for n, o, q in zip("xyz", drawn, p, strict=False)]
    found = combine(row, told, stage="sft-judge", jury=RULE)
    heard = [answer for answer in told if isinstance(answer, Judgment)]
    if not heard:
        assert found == Drop(id=row.id, stage="sft-judge", reason=drawn[-1])
        return
    assert isinstance(found, Judgment)
    expected = pool([Label(one.p, one.state, one.p_raw) for one in heard], RULE)
    assert (found.p, found.state, found.p_raw) == expected
    assert found.verdicts == tuple(verdict for one in heard for verdict in one.verdicts)


def test_files_of_another_run_are_not_combined() -> None:
    """A judge that must have been asked and has no answer stops the stage, with the judge and the fix."""
    row = comparison(0)
    label = said_by("x", row, "labelled")
    assert isinstance(combine(row, [label, None], stage="judge", jury=None), Judgment)
    for said, jury in (([label, None], RULE), ([None, label], None)):
        with pytest.raises(StoreError, match=r"stage judge, row p0/r0~p0/r1: judge [12] has neither.*remove"):
            combine(row, said, stage="judge", jury=jury)


def test_a_clamp_bounds_the_label_and_nothing_else() -> None:
    """p and margin are capped, the same pairs in the same direction stay, also those below the cap."""
    judged = [said_by("x", comparison(n), "labelled", p) for n, p in enumerate((0.95, 0.1, 0.55))]
    free = list(pairs(j for j in judged if isinstance(j, Judgment)))
    capped = list(pairs((j for j in judged if isinstance(j, Judgment)), 0.6))
    shown = [(row.p, round(row.margin or 0, 4)) for row in capped if not isinstance(row, Drop)]
    assert shown == [(0.6, 0.4055), (0.6, 0.4055), (0.55, 0.2007)]
    kept = {"p", "margin"}
    assert [row.model_dump(exclude=kept) for row in capped] == [row.model_dump(exclude=kept) for row in free]


def use(judge: str, asked: int, calls: int, cost: float | None) -> JudgeUse:
    return JudgeUse(
        judge=judge, asked=asked, labelled=0, calls=calls, prompt_tokens=0, completion_tokens=0, cost=cost
    )


def test_the_saving_of_a_cascade_is_counted_against_its_last_judge() -> None:
    """100 comparisons, 25 escalated, 4 calls each: 300 of 400 strong calls saved, 11 of 16 dollars."""
    found = judges_of("cascade", [use("cheap", 100, 400, 1.0), use("strong", 25, 100, 4.0)], 90)
    assert (found.compared, found.calls, found.cost) == (100, 500, 5.0)
    assert found.saving is not None
    assert found.saving.model_dump() == {
        "escalated": 25, "escalated_share": 0.25, "all_calls": 400, "all_cost": 16.0, "saved_calls": 300,
        "saved_share": 0.75, "saved_cost": 11.0,
    }  # fmt: skip
    assert saving_line(found.model_dump()) == (
        "25 of 100 went on (25%); 75% of strong's calls saved: 300 of 400; $5.00 in all instead of $16.00"
    )


def test_what_is_not_known_of_a_saving_is_null() -> None:
    """No price, no dollars; a last judge that was never asked has no mean; no comparison, no share."""
    unpriced = judges_of("cascade", [use("cheap", 10, 20, None), use("strong", 5, 10, 1.0)], 9).saving
    assert unpriced is not None
    assert (unpriced.all_cost, unpriced.saved_cost, unpriced.saved_calls) == (2.0, None, 10)
    unasked = judges_of("cascade", [use("cheap", 10, 20, 0.1), use("strong", 0, 0, 0.0)], 10).saving
    assert unasked is not None
    assert (unasked.all_calls, unasked.all_cost, unasked.saved_share) == (None, None, 1.0)
    empty = judges_of("cascade", [use("cheap", 0, 0, 0.0), use("strong", 0, 0, 0.0)], 0)
    assert empty.saving is not None and empty.saving.escalated_share is None
    assert saving_line(empty.model_dump()) == "nothing to compare"
    assert judges_of("jury", [use("x", 10, 20, 1.0), use("y", 10, 20, 1.0)], 9).saving is None


def config_of(folder: Path, judge: dict[str, Any], **changes: Any) -> RunConfig:
    write_inputs(folder)
    models = {
        name: {"backend": "vllm", "model": name, "endpoint": "http://127.0.0.1:9/v1"}
        for name in ("toy", "x", "generate")
    }
    return RunConfig.model_validate(small_config(folder, "", models=models, judge=judge, **changes))


def test_stages_follow_the_judges(tmp_path: Path) -> None:
    """One stage a judge, whatever its name, then the joint one; a single judge has no other stage."""
    single = config_of(tmp_path, {"model": "x"})
    assert judge_stages(single, "sft-judge") == {"sft-judge": "x"}
    assert stage_names(()) == [
        "prompts", "generate", "revise", "judge", "sft-generate", "sft-judge", "pairs", "demonstrations",
    ]  # fmt: skip
    jury = config_of(tmp_path, {"jury": ["x", "generate"]})
    assert judge_stages(jury, "judge") == {"judge-x": "x", "judge-generate": "generate"}
    assert stage_names(jury.judge.jury)[3:6] == ["judge-x", "judge-generate", "judge"]
    for stage, name in {**judge_stages(jury, "judge"), **judge_stages(jury, "sft-judge")}.items():
        assert role_of(jury, stage) == name
        assert job_of(jury, stage, 0, "m").step.__qualname__.startswith("judge_step")
    assert [role_of(jury, stage) for stage in ("generate", "revise", "grade-base")] == [
        "toy",
        "toy",
        "generate",
    ]
    assert judged_sources(jury, "judge-x") == ("samples", "revision")
    assert judged_sources(jury, "sft-judge-x") == ("samples",)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"clamp": 0.6}, False),
        ({"require_qualification": True, "labelled": "pairs.jsonl"}, False),
        ({"risk": 0.2}, False),
        ({"model": None, "jury": ("x", "toy")}, False),
        ({"threshold": 0.8}, True),
        ({"principles": 2}, True),
        ({"method": "stated"}, True),
        ({"reasoning": True}, True),
    ],
)
def test_what_makes_a_judge_stage_run_again(tmp_path: Path, change: dict[str, Any], again: bool) -> None:
    """Its rule and what reaches its calls; not who else judges, nor what is done with its labels."""
    before = config_of(tmp_path, {"model": "x"})
    after = before.model_copy(update={"judge": before.judge.model_copy(update=change)})
    found = [job_of(config, next(iter(judge_stages(config, "judge"))), 0, "m") for config in (before, after)]
    assert (found[0].inputs_digest != found[1].inputs_digest) is again
