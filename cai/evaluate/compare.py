"""Two models side by side: the judge compares what they said to the same held-out prompts, just as it labels pairs.

Both orders, the principles of the constitution, the same reading of verdicts. A prompt is judged under the same
principles whichever two models are compared. Replies of the same words are a tie for which nobody is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from cai.rows import Candidate, Comparison, Drop, Judgment, Reply
from cai.shard.calls import Ask

Step = Callable[[Comparison, Ask], Awaitable[Sequence[Judgment | Drop]]]


def pair_name(models: tuple[str, str]) -> str:
    """What two compared models are called together: `dpo-vs-sft`."""
    return "-vs-".join(models)


def compare_stage(models: tuple[str, str]) -> str:
    """The stage in which two models are compared."""
    return f"compare-{pair_name(models)}"


def compared_models(stage: str) -> tuple[str, str] | None:
    """The models that a stage compares, in order; None for a stage that compares no models."""
    if not stage.startswith("compare-"):
        return None
    first, _, second = stage.removeprefix("compare-").partition("-vs-")
    return first, second


def both_replied(
    models: tuple[str, str], first: Iterable[Reply], second: Iterable[Reply]
) -> Iterator[Comparison]:
    """The replies of two models to each prompt that both have one to, in the order of the first's."""
    others = {reply.id: reply.text for reply in second}
    a, b = models
    for reply in first:
        if reply.id in others:
            yield Comparison(
                id=reply.id,  # names the draw of principles, so it must not name the models
                prompt=reply.prompt,
                a=Candidate(id=f"{a}/{reply.id}", kind="reply", text=reply.text),
                b=Candidate(id=f"{b}/{reply.id}", kind="reply", text=others[reply.id]),
            )


def compare_step(judged: Step) -> Step:
    """The step of a judge, `judged`, in which identical replies are a tie instead of a drop."""

    async def step(row: Comparison, ask: Ask) -> Sequence[Judgment | Drop]:
        if row.a.text != row.b.text:
            return await judged(row, ask)
        settled: dict[str, Any] = {"verdicts": (), "p": 0.5, "p_raw": 0.5, "state": "tie"}
        return [Judgment(id=row.id, prompt=row.prompt, a=row.a, b=row.b, **settled)]

    return step
