"""Steps without a run: how a reply is divided, what a row ends with, and what a config may say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import ConfigError
from cai.rows import Drop, JudgedStep, JudgedSteps, JudgmentState, Message, Prompt, Reply, Stepwise
from cai.stages.steps import as_text, split_steps, step_states, stepwise_rows
from tests.test_train_run import config_of

GOOD, BAD, OPEN = 0.9, 0.2, 0.55


@pytest.mark.parametrize(
    ("text", "separator", "steps"),
    [
        (
            "First.\n\nSecond,\nstill second.\n \t\n\n\nThird.\n",
            None,
            ["First.", "Second,\nstill second.", "Third."],
        ),
        ("One line.\nAnother.", None, ["One line.\nAnother."]),
        (
            "Let me see.\nStep 1: Add.\n\nMore of it.\n**Step 2.** Halve.\n### step 12 End.",
            None,
            ["Let me see.", "Step 1: Add.\n\nMore of it.", "**Step 2.** Halve.", "### step 12 End."],
        ),
        ("Step 1: alone.\n\nThen this.", None, ["Step 1: alone.", "Then this."]),
        (
            "The next step 1 is\nno step 2 either\n\nat all",
            None,
            ["The next step 1 is\nno step 2 either", "at all"],
        ),
        ("a. b. c.", ". ", ["a", "b", "c."]),
        ("Step 1: x\nStep 2: y", "\n", ["Step 1: x", "Step 2: y"]),
        (" \n\n \n", None, []),
    ],
)
def test_how_a_reply_is_divided(text: str, separator: str | None, steps: list[str]) -> None:
    """By numbered lines, by blank lines, or by what the config says, which then is all that counts."""
    assert split_steps(text, separator) == steps


@given(st.text(), st.sampled_from([None, "\n", "\n\n", "; "]))
def test_no_word_is_lost(text: str, separator: str | None) -> None:
    """Steps hold all of the reply in its order, and none is empty or edged by white space."""
    steps = split_steps(text, separator)
    whole = text if separator is None else text.replace(separator, " " * len(separator))
    assert "".join("".join(steps).split()) == "".join(whole.split())
    assert all(step and step == step.strip() for step in steps)


def judged(
    *found: tuple[float | None, JudgmentState], prompt: str = "p", n: int = 0, same: bool = False
) -> JudgedSteps:
    """A reply whose steps were judged so."""
    turns = (Message(role="user", content="Why?"),)
    reply = Reply(
        id=f"{prompt}/r{n}", prompt=Prompt(id=prompt, messages=turns, tags=("t",), source="s"), sample=n, text="x",
        finish_reason="stop", model="m", calls=(),
    )  # fmt: skip
    steps = tuple(
        JudgedStep(text=f"s{k}" if same else f"s{n}.{k}", verdicts=(), p=p, state=state)
        for k, (p, state) in enumerate(found)
    )
    return JudgedSteps(id=reply.id, reply=reply, principles=("kind",), steps=steps)


def labelled(p: float) -> tuple[float | None, JudgmentState]:
    return p, "labelled"


@pytest.mark.parametrize(
    ("steps", "labels", "ended"),
    [
        ([labelled(GOOD), labelled(GOOD)], (True, True), "last"),
        ([labelled(GOOD), labelled(BAD)], (True, False), "bad"),
        ([labelled(GOOD), labelled(BAD), labelled(GOOD)], (True, False), "bad"),
        ([labelled(BAD), (None, "unparsed")], (False,), "bad"),
        ([labelled(GOOD), (OPEN, "below_threshold"), labelled(BAD)], (True,), "below_threshold"),
        ([labelled(GOOD), (None, "refused")], (True,), "refused"),
        ([labelled(GOOD), labelled(GOOD), (0.5, "inconsistent")], (True, True), "inconsistent"),
    ],
)
def test_a_row_ends_with_the_first_bad_step(
    steps: list[tuple[float | None, JudgmentState]], labels: tuple[bool, ...], ended: str
) -> None:
    """Nothing behind it has a label, whatever was said of it; a step without a label ends it as well."""
    (row,) = stepwise_rows([judged(*steps)])
    assert isinstance(row, Stepwise)
    assert (row.labels, row.ended) == (labels, ended)
    assert len(row.completions) == len(row.p) == len(labels)
    assert [p > 0.5 for p in row.p] == list(row.labels)


def test_replies_without_a_row_are_counted() -> None:
    """By the state of their first step; the same labelled steps twice under one prompt as a duplicate."""
    open_ = judged((OPEN, "tie"), labelled(GOOD))
    first, second = (judged(labelled(GOOD), n=n, same=True) for n in (1, 2))
    other = judged(labelled(GOOD), prompt="q", n=1, same=True)
    found = list(stepwise_rows([open_, first, second, other]))
    assert [row.reason if isinstance(row, Drop) else "kept" for row in found] == [
        "tie", "kept", "duplicate", "kept",
    ]  # fmt: skip
    states, behind = step_states(
        [open_, judged(labelled(GOOD), labelled(BAD), labelled(GOOD), (None, "refused"))]
    )
    assert (states, behind) == ({"good": 3, "bad": 1, "tie": 1, "refused": 1}, 3)


def test_a_conversation_as_text() -> None:
    """One turn is the prompt itself; of several it is told who says them."""
    turns = [
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Yes?"),
        Message(role="user", content="Why?"),
    ]
    assert as_text(turns[:1]) == "Hi"
    assert as_text(turns) == "User: Hi\n\nAssistant: Yes?\n\nUser: Why?"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stepwise": {"judge": "nobody"}}, r"stepwise\.judge: 'nobody' is not under 'models' \(m\)"),
        ({"stepwise": {"separator": ""}}, r"stepwise\.separator"),
        ({"stepwise": {"threshold": 0.4}}, r"stepwise\.threshold"),
        ({"stepwise": {"steps": 3}}, r"stepwise\.steps"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """By its place in the config."""
    with pytest.raises(ConfigError, match=problem):
        config_of(tmp_path, **changes)


def test_several_judges_need_one_for_steps(tmp_path: Path) -> None:
    """A jury pools labels of pairs; who judges steps is said."""
    models: dict[str, Any] = {name: {"backend": "vllm", "model": name, "managed": {}} for name in ("m", "n")}
    jury = {"models": models, "judge": {"jury": ["m", "n"]}}
    with pytest.raises(ConfigError, match=re.escape("stepwise: judge.jury has several judges")):
        config_of(tmp_path, **jury, stepwise={})
    assert config_of(tmp_path, **jury, stepwise={"judge": "n"}).step_judge == "n"
