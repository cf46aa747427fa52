"""Two candidates → a judgment: every drawn principle asked in both orders, p from the answer's logprobs.

A verdict that is cut off, refused or not one of the two letters is recorded as a failure of that call
and adds nothing to the label; see `cai.judge.label` for how verdicts combine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Literal

from cai.calls import Ask
from cai.config import JudgeConfig
from cai.constitution import Constitution, Principle, draw
from cai.judge.label import JudgeRule, label
from cai.models.base import Completion, Request, derive_seed
from cai.prompts import Templates, compare_messages
from cai.rows import Candidate, Comparison, Drop, Judgment, Reply, Revision, Verdict

PairSource = Literal["samples", "revision"]
Order = Literal["ab", "ba"]


def comparisons(
    replies: Iterable[Reply], revisions: Iterable[Revision], sources: Sequence[PairSource]
) -> Iterator[Comparison]:
    """All pairs to judge, prompt by prompt in the order of `replies`, holding one prompt's rows at a time.

    `samples`: every two replies of a prompt. `revision`: a reply and what its revision made of it,
    where it changed. Both inputs are in prompt order, as the stages publish them.
    """
    pending = iter(revisions)
    ahead = next(pending, None)
    group: list[Reply] = []

    def finish() -> Iterator[Comparison]:
        nonlocal ahead
        if "samples" in sources:
            for a, b in combinations(group, 2):
                yield _comparison(a, Candidate(id=b.id, kind="reply", text=b.text))
        while ahead is not None and ahead.reply.prompt.id == group[0].prompt.id:
            if ahead.changed and "revision" in sources:
                yield _comparison(ahead.reply, Candidate(id=ahead.id, kind="revision", text=ahead.final))
            ahead = next(pending, None)

    for reply in replies:
        if group and reply.prompt.id != group[0].prompt.id:
            yield from finish()
            group = []
        group.append(reply)
    if group:
        yield from finish()


def _comparison(a: Reply, b: Candidate) -> Comparison:
    first = Candidate(id=a.id, kind="reply", text=a.text)
    return Comparison(id=f"{first.id}~{b.id}", prompt=a.prompt, a=first, b=b)


def read_verdict(completion: Completion, call: str, judge: str, principle: str, order: Order) -> Verdict:
    """One answer as P(a better): the probability of `A` where a was shown first, of `B` where b was."""
    probs = completion.choice_probs
    failure: Literal["refused", "unparsed"] | None = None
    if completion.finish_reason in ("refusal", "content_filter"):
        failure, probs = "refused", None
    elif probs is None:
        failure = "unparsed"
    return Verdict(
        judge=judge,
        principle=principle,
        order=order,
        p=probs["A" if order == "ab" else "B"] if probs else None,
        method=completion.choice_method or "logprobs",
        failure=failure,
        calls=(call,),
    )


def judge_step(
    judge: JudgeConfig,
    name: str,
    rule: JudgeRule,
    constitution: Constitution,
    templates: Templates,
    *,
    seed: int,
    stage: str,
) -> Callable[[Comparison, Ask], Awaitable[Sequence[Judgment | Drop]]]:
    """The step in which the judge `name` labels one comparison.

    Candidates of identical text are dropped before a call is spent.
    """

    async def ask_one(row: Comparison, principle: Principle, order: Order, ask: Ask) -> Verdict:
        first, second = (row.a, row.b) if order == "ab" else (row.b, row.a)
        request = Request(
            messages=compare_messages(templates, principle, row.prompt.messages, first.text, second.text),
            max_tokens=judge.sampling.max_tokens,
            temperature=judge.sampling.temperature,
            top_p=judge.sampling.top_p,
            seed=derive_seed(seed, f"{row.id}/{principle.id}/{order}", "judge"),
            choices=("A", "B"),
        )
        completion, call = await ask(request)
        return read_verdict(completion, call, name, principle.id, order)

    async def step(row: Comparison, ask: Ask) -> Sequence[Judgment | Drop]:
        if row.a.text == row.b.text:
            return [Drop(id=row.id, stage=stage, reason="identical")]
        drawn = draw(
            constitution, seed=seed, row_id=row.id, use="judge", tags=row.prompt.tags, k=judge.principles
        )
        if not drawn:
            return [Drop(id=row.id, stage=stage, reason="no_principle", detail=f"tags {row.prompt.tags}")]
        orders: tuple[Order, ...] = ("ab", "ba")
        verdicts = await asyncio.gather(*(ask_one(row, p, order, ask) for p in drawn for order in orders))
        p, state, p_raw = label(verdicts, drawn, rule)
        return [
            Judgment(
                id=row.id, prompt=row.prompt, a=row.a, b=row.b,
                verdicts=tuple(verdicts), p=p, p_raw=p_raw, state=state,
            )
        ]  # fmt: skip

    return step
