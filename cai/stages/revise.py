"""Reply → k rounds of critique and revision, one drawn principle a round (Bai et al. 2022, section 3.1).

A round whose critique finds nothing ends without a revision; `stop_when_clean` then ends the chain.
Every critique and every intermediate revision is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cai.config import CriticConfig
from cai.constitution import Constitution, Principle, draw
from cai.models.base import Request, derive_seed
from cai.parse import parse_critique, parse_revision
from cai.prompts import Templates, critique_messages, revise_messages
from cai.rows import Message, Reply, Revision, RevisionRound
from cai.shard.calls import Ask, ask_parsed


def revise_step(
    critic: CriticConfig, constitution: Constitution, templates: Templates, *, seed: int
) -> Callable[[Reply, Ask], Awaitable[Sequence[Revision]]]:
    """The step that critiques and revises one reply in up to `critic.rounds` rounds."""
    digests = {principle.id: principle.digest("revise") for principle in constitution.principles}

    def request(messages: tuple[Message, ...], row_id: str, stage: str, round_: int) -> Request:
        return Request(
            messages=messages,
            max_tokens=critic.sampling.max_tokens,
            temperature=critic.sampling.temperature,
            top_p=critic.sampling.top_p,
            seed=derive_seed(seed, row_id, stage, round_),
        )

    async def one_round(reply: Reply, text: str, principle: Principle, index: int, ask: Ask) -> RevisionRound:
        turns = reply.prompt.messages
        asked = critique_messages(templates, principle, turns, text)
        (critique, violated), calls = await ask_parsed(
            ask, request(asked, reply.id, "critique", index), parse_critique
        )
        revision: str | None = None
        if violated:
            asked = revise_messages(templates, principle, turns, text, critique)
            revision, more = await ask_parsed(ask, request(asked, reply.id, "revise", index), parse_revision)
            calls += more
        return RevisionRound(
            round=index,
            principle=principle.id,
            principle_digest=digests[principle.id],
            critique=critique,
            violated=violated,
            revision=revision,
            calls=calls,
        )

    async def step(reply: Reply, ask: Ask) -> Sequence[Revision]:
        drawn = draw(
            constitution, seed=seed, row_id=reply.id, use="revise", tags=reply.prompt.tags, k=critic.rounds
        )
        rounds: list[RevisionRound] = []
        text = reply.text
        for index, principle in enumerate(drawn):
            done = await one_round(reply, text, principle, index, ask)
            rounds.append(done)
            if done.revision is not None:
                text = done.revision
            elif critic.stop_when_clean:
                break
        return [Revision(id=f"{reply.id}/v", reply=reply, rounds=tuple(rounds), final=text)]

    return step
