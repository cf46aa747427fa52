"""Sampled reply → its steps, each judged by itself: is it good, given the prompt and the steps before it?

A step is asked about as a pair is: "is it sound?" with the answers yes and no in both orders, under the principles
drawn for its reply, by the method of the run's judge; see `cai.stages.verdict` and `cai.judge.label`. All steps of a
reply are judged, at once, and a step's verdicts say nothing of what came before it.

What trains a process reward model ends with the first bad step, as in Lightman et al. 2023 (arXiv 2305.20050), who
label no step after it. Uesato et al. 2022 (arXiv 2211.14275) ask whether the steps are correct *so far*, which makes
every later one wrong: that would be a label nobody gave. A step without a label ends its row as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

from cai.config import JudgeConfig, StepwiseConfig
from cai.constitution import Constitution, Principle, draw
from cai.judge.label import JudgeRule, label
from cai.prompts import Templates, step_messages
from cai.rows import Drop, JudgedStep, JudgedSteps, Message, Reply, Stepwise
from cai.shard.calls import Ask, together
from cai.stages.verdict import ask_verdicts

GOOD, BAD = "yes", "no"
_NUMBERED = re.compile(r"^[^\w\n]{0,8}step[ \t]+\d+\b", re.IGNORECASE | re.MULTILINE)
_BLANK = re.compile(r"\n[^\S\n]*\n")
_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


def split_steps(text: str, separator: str | None) -> list[str]:
    """The steps of a reply, without white space around them; none is empty.

    `separator`: what stands between them. None: each line that begins with "Step 1", "Step 2" … (also as a heading or
    in bold) begins one, with what stands before the first as a step of its own; where there are fewer than two such
    lines, blank lines divide.
    """
    if separator is not None:
        parts = text.split(separator)
    elif len(starts := [found.start() for found in _NUMBERED.finditer(text)]) > 1:
        parts = [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)]
    else:
        parts = _BLANK.split(text)
    return [part.strip() for part in parts if part.strip()]


def steps_step(
    judge: JudgeConfig,
    name: str,
    stepwise: StepwiseConfig,
    constitution: Constitution,
    templates: Templates,
    *,
    seed: int,
    stage: str,
) -> Callable[[Reply, Ask], Awaitable[Sequence[JudgedSteps | Drop]]]:
    """The step in which the judge `name` judges all steps of one reply.

    A reply with more steps than allowed, or that no principle applies to, is dropped before a call is spent.
    """
    silent = judge.model_copy(update={"reasoning": False})
    rule = JudgeRule(stepwise.threshold)

    async def one(reply: Reply, drawn: Sequence[Principle], texts: list[str], n: int, ask: Ask) -> JudgedStep:
        verdicts = await ask_verdicts(
            silent, name, templates, row_id=f"{reply.id}/s{n}", turns=reply.prompt.messages, a=GOOD, b=BAD,
            principles=drawn, seed=seed, ask=ask,
            question=partial(step_messages, before=texts[:n], step=texts[n]),
        )  # fmt: skip
        p, state, _ = label(verdicts, drawn, rule)
        return JudgedStep(text=texts[n], verdicts=tuple(verdicts), p=p, state=state)

    async def step(reply: Reply, ask: Ask) -> Sequence[JudgedSteps | Drop]:
        texts = split_steps(reply.text, stepwise.separator)
        drawn = draw(
            constitution,
            seed=seed,
            row_id=reply.id,
            use="judge",
            tags=reply.prompt.tags,
            k=stepwise.principles,
        )
        if not texts or len(texts) > stepwise.max_steps:
            reason = "too_many_steps" if texts else "no_steps"
            return [Drop(id=reply.id, stage=stage, reason=reason, detail=f"{len(texts)} steps")]
        if not drawn:
            return [Drop(id=reply.id, stage=stage, reason="no_principle", detail=f"tags {reply.prompt.tags}")]
        steps = await together([one(reply, drawn, texts, n, ask) for n in range(len(texts))])
        ids = tuple(principle.id for principle in drawn)
        return [JudgedSteps(id=reply.id, reply=reply, principles=ids, steps=tuple(steps))]

    return step


def stepwise_rows(judged: Iterable[JudgedSteps]) -> Iterator[Stepwise | Drop]:
    """The rows of the dataset: each reply's steps up to its first bad one, or to the first that has no label.

    A reply whose very first step has none is dropped by that step's state; one that repeats the labelled steps of
    another reply to the same prompt as `duplicate`. `judged` is in prompt order, as the stage publishes it.
    """
    prompt, seen = "", set[tuple[str, ...]]()
    for row in judged:
        if row.reply.prompt.id != prompt:
            prompt, seen = row.reply.prompt.id, set()
        found = _stepwise(row)
        if isinstance(found, Stepwise):
            if found.completions in seen:
                yield Drop(id=row.id, stage="stepwise", reason="duplicate")
                continue
            seen.add(found.completions)
        yield found


def step_states(judged: Iterable[JudgedSteps]) -> tuple[Counter[str], int]:
    """How many steps are `good`, `bad`, or without a label, by state; and how many of them stand behind the first bad
    or unlabelled step of their reply, where its row has ended.
    """
    found: Counter[str] = Counter({"good": 0, "bad": 0})
    behind = 0
    for row in judged:
        states = [_state(step) for step in row.steps]
        found.update(states)
        end = next((n for n, state in enumerate(states) if state != "good"), len(states))
        behind += len(states[end + 1 :])
    return found, behind


def _state(step: JudgedStep) -> str:
    if step.state != "labelled" or step.p is None:
        return step.state
    return "good" if step.p > 0.5 else "bad"


def _stepwise(row: JudgedSteps) -> Stepwise | Drop:
    kept: list[JudgedStep] = []
    ended = "last"
    for step in row.steps:
        state = _state(step)
        if state in ("good", "bad"):
            kept.append(step)
        if state != "good":
            ended = state
            break
    if not kept:
        return Drop(id=row.id, stage="stepwise", reason=ended, detail="first step")
    turns = row.reply.prompt.messages
    return Stepwise.model_validate(
        {
            "id": row.id,
            "prompt": as_text(turns),
            "completions": tuple(step.text for step in kept),
            "labels": tuple(_state(step) == "good" for step in kept),
            "p": tuple(step.p for step in kept),
            "messages": turns,
            "principles": row.principles,
            "ended": ended,
            "tags": row.reply.prompt.tags,
            "lineage": row.id,
        }
    )


def as_text(turns: Sequence[Message]) -> str:
    """A conversation as text: a single turn as it is, several with who says them."""
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{_ROLES[turn.role]}: {turn.content}" for turn in turns)
