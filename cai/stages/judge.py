"""Two candidates → a judgment: every drawn principle asked in both orders, one label from all verdicts.

See `cai.stages.verdict` for how a verdict is got, and `cai.judge.label` for how verdicts combine; one that is
cut off, refused or not one of the two letters is kept as a failure and adds nothing to the label.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Literal

from cai.config import JudgeConfig
from cai.constitution import Constitution, draw
from cai.judge.label import JudgeRule, label
from cai.prompts import Templates
from cai.rows import Candidate, Comparison, Drop, Judgment, Reply, Revision
from cai.shard.calls import Ask
from cai.stages.verdict import ask_verdicts

PairSource = Literal["samples", "revision"]


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
            if "revision" in sources:
                yield from revised([ahead])
            ahead = next(pending, None)

    for reply in replies:
        if group and reply.prompt.id != group[0].prompt.id:
            yield from finish()
            group = []
        group.append(reply)
    if group:
        yield from finish()


def revised(revisions: Iterable[Revision]) -> Iterator[Comparison]:
    """The pairs of a reply and what its revision made of it, where it changed; `comparisons` without the samples."""
    for revision in revisions:
        if revision.changed:
            yield _comparison(revision.reply, Candidate(id=revision.id, kind="revision", text=revision.final))


def _comparison(a: Reply, b: Candidate) -> Comparison:
    first = Candidate(id=a.id, kind="reply", text=a.text)
    return Comparison(id=f"{first.id}~{b.id}", prompt=a.prompt, a=first, b=b)


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

    async def step(row: Comparison, ask: Ask) -> Sequence[Judgment | Drop]:
        if row.a.text == row.b.text:
            return [Drop(id=row.id, stage=stage, reason="identical")]
        drawn = draw(
            constitution, seed=seed, row_id=row.id, use="judge", tags=row.prompt.tags, k=judge.principles
        )
        if not drawn:
            return [Drop(id=row.id, stage=stage, reason="no_principle", detail=f"tags {row.prompt.tags}")]
        verdicts = await ask_verdicts(
            judge, name, templates, row_id=row.id, turns=row.prompt.messages, a=row.a.text, b=row.b.text,
            principles=drawn, seed=seed, ask=ask,
        )  # fmt: skip
        p, state, p_raw = label(verdicts, drawn, rule)
        return [
            Judgment(
                id=row.id, prompt=row.prompt, a=row.a, b=row.b,
                verdicts=tuple(verdicts), p=p, p_raw=p_raw, state=state,
            )
        ]  # fmt: skip

    return step
