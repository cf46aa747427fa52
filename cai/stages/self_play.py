"""Self-play: a demonstration is preferred to what the policy itself says to the same prompt. Pure: nobody is asked.

SPIN (Chen et al. 2024, arXiv:2401.01335) makes the pairs like this in each of its rounds and learns from them by the
DPO loss, with the policy that was sampled as its reference: what is left to learn is how the two still differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cai.rows import Demonstration, Drop, Message, Pair, Prompt, Reply


def prompt_of(demonstration: Demonstration) -> str:
    """The id of the prompt that a demonstration answers: it is the first reply, `p/r0`, or its revision, `p/r0/v`."""
    return demonstration.id.removesuffix("/v").removesuffix("/r0")


def shown(prompts: Iterable[Prompt], demonstrations: Iterable[Demonstration]) -> Iterator[Prompt]:
    """The prompts that have a demonstration: samples of any other would be set against nothing.

    Holds the ids of one shard's demonstrations.
    """
    known = {prompt_of(demonstration) for demonstration in demonstrations}
    yield from (prompt for prompt in prompts if prompt.id in known)


def self_play(
    replies: Iterable[Reply], demonstrations: Iterable[Demonstration], mark: str = ""
) -> Iterator[Pair | Drop]:
    """A pair for each sample, the demonstration chosen; a sample of the same words is a drop `identical`.

    A second sample of the same words is `duplicate`. `mark`: what a round puts behind the ids of its prompts. Both
    inputs are in prompt order, one prompt's samples side by side.
    """
    ahead = iter(demonstrations)
    better, seen, prompt_id = next(ahead, None), set[str](), ""
    for reply in replies:
        if reply.prompt.id != prompt_id:
            prompt_id, seen = reply.prompt.id, set()
            while better is not None and prompt_of(better) + mark != prompt_id:
                better = next(ahead, None)
        if better is None:  # sampled when there was a demonstration for it
            yield _drop(reply, "no_demonstration")
        elif reply.text == better.completion[0].content:
            yield _drop(reply, "identical")
        elif reply.text in seen:
            yield _drop(reply, "duplicate")
        else:
            seen.add(reply.text)
            yield _pair(reply, better)


def _pair(reply: Reply, better: Demonstration) -> Pair:
    return Pair(
        id=f"{better.id}~{reply.id}",
        prompt=better.prompt,
        chosen=better.completion,
        rejected=(Message(role="assistant", content=reply.text),),
        p=None,
        margin=None,
        source="demonstration",
        principles=(),
        tags=better.tags,
        lineage=better.id,
    )


def _drop(reply: Reply, reason: str) -> Drop:
    return Drop(id=reply.id, stage="pairs", reason=reason)
