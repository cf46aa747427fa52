"""How many tokens a call takes before any was made: the very requests of a run, with stand-ins for the replies.

The steps of the run work through a few of its prompts. Every text that a model would write is a stand-in of a share
of `max_tokens`, every critique finds something, so the prompts that follow are as long as they would be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cai.config import RunConfig
from cai.evaluate.compare import compared_models
from cai.judges.stages import joint_stage, judged_sources, qualified_judge
from cai.models.base import Completion, Request, Usage, gives_logprobs
from cai.pipeline import job_of, role_of
from cai.plan.calls import place
from cai.plan.rates import CHARACTERS_A_TOKEN, PerCall
from cai.rows import Candidate, Comparison, Prompt, Reply
from cai.shard.calls import Ask, Asked
from cai.shard.results import results_of

LABELLED_PAIRS = 50  # looked at, of those that a judge is measured on
VERDICT = "\nVERDICT: breaks"


async def stand_in_tokens(
    config: RunConfig, stage: str, prompts: Sequence[Prompt], share: float
) -> dict[str, PerCall]:
    """Mean tokens of a call of `stage`, by kind, over `prompts`; four characters a token.

    `share`: of max_tokens, that replies have.
    """
    job = job_of(config, stage, 0, "")
    rows: Iterable[Any] = job.rows if qualified_judge(stage) else _rows(config, stage, prompts, share)
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, row in enumerate(rows):
        if number == LABELLED_PAIRS:
            break
        await results_of(stage, job.step, row, _answering(config, stage, row.id, share, seen))
    return {
        kind: PerCall(*(sum(column) / len(calls) for column in zip(*calls, strict=True)))
        for kind, calls in seen.items()
    }


def _answering(
    config: RunConfig, stage: str, row_id: str, share: float, seen: dict[str, list[tuple[float, float]]]
) -> Ask:
    """A way to ask that notes how long prompt and reply are, and replies with a stand-in."""
    one_token = config.judge.method != "stated" and (
        config.judge.method == "samples" or gives_logprobs(config.models[role_of(config, stage)])
    )

    async def ask(request: Request) -> Asked:
        kind = place(config, row_id, request)[0] if stage == "revise" else stage
        prompt = sum(len(message.content) for message in request.messages) / CHARACTERS_A_TOKEN
        text = _text(request.max_tokens * share, VERDICT if kind == "critique" else "")
        size = len(text) / CHARACTERS_A_TOKEN
        if request.choices and one_token:
            size = 1.0
        seen[kind].append((prompt, size))
        first = request.choices[0] if request.choices else text
        probs = dict.fromkeys(request.choices, 1 / len(request.choices)) if request.choices else None
        method = "samples" if config.judge.method == "samples" else "logprobs"
        completion = Completion(
            text=first, finish_reason="stop", usage=Usage(), model="", choice_probs=probs,
            choice_method=method if request.choices else None,
        )  # fmt: skip
        return Asked(completion, f"{row_id}/{len(seen[kind])}")

    return ask


def _text(tokens: float, end: str = "") -> str:
    """A text of so many tokens, with this end."""
    return "x" * max(1, round(tokens * CHARACTERS_A_TOKEN) - len(end)) + end


def _rows(config: RunConfig, stage: str, prompts: Sequence[Prompt], share: float) -> Iterator[Any]:
    """The rows that a stage would get for these prompts."""
    for prompt in prompts:
        reply = Reply(
            id=f"{prompt.id}/r0", prompt=prompt, sample=0, finish_reason="stop", model="", calls=(),
            text=_text(config.policy.sampling.max_tokens * share),
        )  # fmt: skip
        if stage == "revise":
            yield reply
        elif stage.startswith("grade-"):
            yield reply.model_copy(update={"prompt": prompt.model_copy(update={"tags": ("helpful",)})})
        elif (joint := joint_stage(stage)) is not None:
            yield _comparison(config, joint, reply, share)
        elif compared_models(stage) is not None:
            sides = (reply.text, "y" + reply.text)
            a, b = (Candidate(id=reply.id, kind="reply", text=text) for text in sides)
            yield Comparison(id=reply.id, prompt=prompt, a=a, b=b)
        else:
            yield prompt


def _comparison(config: RunConfig, joint: str, reply: Reply, share: float) -> Comparison:
    """A reply beside another one, or beside its revision where only revisions are judged."""
    revised = "samples" not in judged_sources(config, joint)
    most = (config.critic if revised else config.policy).sampling.max_tokens
    a = Candidate(id=reply.id, kind="reply", text=reply.text)
    other = Candidate(
        id=f"{reply.id}/v" if revised else f"{reply.prompt.id}/r1",
        kind="revision" if revised else "reply",
        text="y" + _text(most * share),
    )
    return Comparison(id=f"{a.id}~{other.id}", prompt=reply.prompt, a=a, b=other)
