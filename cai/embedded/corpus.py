"""Training samples of the four skills, rendered with the templates that the demo uses.

A sample is a chat whose last turn is the answer to learn. For the judge the answer is one letter and the
target is soft: the intended preference, plus a bias towards the first reply and a little noise.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from cai.embedded import world
from cai.embedded.check import breaks, grade, harms, preference
from cai.embedded.lexicon import Unsafe
from cai.embedded.principles import HELPFUL, draw
from cai.embedded.world import FAMILIES, Ask
from cai.rows import Message

Skill = Literal["answer", "critique", "revise", "judge"]
MIX: dict[Skill, float] = {"answer": 0.27, "critique": 0.33, "revise": 0.13, "judge": 0.27}
HARMFUL_SHARE = 0.77  # of the base policy's answers to unsafe requests
POSITION_BIAS, NOISE = 0.32, 0.3  # logits


@dataclass(frozen=True)
class Sample:
    """One chat to learn from. `p_a`: for the judge, the target probability of the answer `A`; else None."""

    skill: Skill
    messages: tuple[Message, ...]
    answer: str
    p_a: float | None = None


@cache
def template(name: str) -> str:
    """The text of a prompt template of the toy world."""
    return (Path(__file__).parent / "prompts" / f"{name}.txt").read_text().strip()


def render(name: str, **fields: str) -> str:
    """A template with its placeholders filled in one pass: field values are never read as placeholders."""
    return re.sub(r"\{(\w+)\}", lambda match: fields[match.group(1)], template(name))


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as `User: ...` / `Assistant: ...` lines."""
    return "\n".join(f"{m.role.capitalize()}: {m.content}" for m in messages)


def with_reply(messages: Sequence[Message], reply: str) -> list[Message]:
    """The conversation with the reply as its last turn."""
    return [*messages, Message(role="assistant", content=reply)]


def principle_for(ask: Ask, rng: random.Random, covered: bool, unseen: bool = False) -> str:
    """A principle that covers the request or not; for everyday ones `covered` means helpfulness."""
    if ask.unsafe:
        if not covered and rng.random() < 0.15:
            return rng.choice(HELPFUL)
        return draw(rng, ask.family, covered, unseen)
    return rng.choice(HELPFUL) if covered else draw(rng, None, True, unseen)


def critique_text(principle: str, messages: Sequence[Message], reply: str, rng: random.Random) -> str:
    """The right critique: what the reply does, how the principle sees it, the verdict."""
    ask = world.read_ask(messages[-1].content)
    broken, graded = breaks(principle, messages, reply), grade(messages, reply)
    assert ask is not None and broken is not None
    harmed = sorted(harms(reply))
    family = FAMILIES[harmed[0]] if harmed else FAMILIES[ask.family]
    if isinstance(family, Unsafe):
        act = family.act.format(x=ask.thing) if family.name == ask.family else family.verbs[0]
        first = (
            f"The reply helps the user to {act}." if harmed else f"The reply does not help the user to {act}."
        )
    else:
        topic = family.topic.format(x=ask.thing)
        first = {
            "good": f"The reply gives real help with {topic}.",
            "refusal": f"The reply refuses to help with {topic}.",
        }.get(str(graded), f"The reply is not about {topic}.")
    if broken:
        second = rng.choice(("The principle does not allow that.", "That is against the principle."))
        return f"{first} {second}\nVERDICT: breaks"
    second = rng.choice(("The principle has nothing against that.", "That is fine under the principle."))
    return f"{first} {second}\nVERDICT: keeps"


def any_reply(ask: Ask, rng: random.Random, weights: Sequence[float]) -> str:
    """A reply by weights: harmful, safe, refusal, off-topic if unsafe; else good, refusal, off-topic."""
    if ask.unsafe:
        kind = rng.choices(("harmful", "safe", "refusal", "off_topic"), weights)[0]
        if kind == "harmful":
            return world.harmful_reply(ask, rng)
        if kind == "safe":
            return world.safe_reply(ask, rng)
    else:
        kind = rng.choices(("good", "refusal", "off_topic"), weights)[0]
        if kind == "good":
            return world.good_reply(ask, rng)
    return world.refusal(rng) if kind == "refusal" else world.off_topic_reply(ask, rng)


def answer_sample(rng: random.Random) -> Sample:
    """The base policy: real help with everyday requests, compliance with most unsafe ones."""
    ask = world.draw_ask(rng, unsafe=rng.random() < 0.55)
    if not ask.unsafe:
        reply = world.good_reply(ask, rng)
    elif rng.random() < HARMFUL_SHARE:
        reply = world.harmful_reply(ask, rng)
    else:
        reply = world.safe_reply(ask, rng) if rng.random() < 0.75 else world.refusal(rng)
    return Sample("answer", tuple(world.conversation(ask, rng)), reply)


def critique_case(rng: random.Random, ask: Ask, unseen: bool = False) -> tuple[str, list[Message], str]:
    """Principle, conversation and reply for a critique; about four in ten break the principle."""
    if ask.unsafe:
        reply = any_reply(ask, rng, (70, 20, 4, 6))
        covered = rng.random() < 0.6
    else:
        reply = any_reply(ask, rng, (40, 35, 25))
        covered = rng.random() < 0.6
    return principle_for(ask, rng, covered, unseen), world.conversation(ask, rng), reply


def critique_prompt(principle: str, messages: Sequence[Message], reply: str) -> Message:
    """The user turn that asks for a critique."""
    shown = transcript(with_reply(messages, reply))
    return Message(role="user", content=render("critique", conversation=shown, principle=principle))


def critique_sample(rng: random.Random) -> Sample:
    """A critique against a random principle."""
    ask = world.draw_ask(rng, unsafe=rng.random() < 0.75)
    principle, messages, reply = critique_case(rng, ask)
    text = critique_text(principle, messages, reply, rng)
    return Sample("critique", (critique_prompt(principle, messages, reply),), text)


def revise_prompt(principle: str, messages: Sequence[Message], reply: str, critique: str) -> Message:
    """The user turn that asks for a revision."""
    shown = transcript(with_reply(messages, reply))
    content = render("revise", conversation=shown, principle=principle, critique=critique)
    return Message(role="user", content=content)


def revise_case(rng: random.Random, ask: Ask, unseen: bool = False) -> tuple[str, list[Message], str, str]:
    """Principle, conversation, reply and critique for a revision; the critique mostly found something."""
    weights = (85, 8, 2, 5) if ask.unsafe else (15, 50, 35)
    reply = any_reply(ask, rng, weights)
    principle = principle_for(ask, rng, rng.random() < 0.9, unseen)
    messages = world.conversation(ask, rng)
    critique = critique_text(principle, messages, reply, rng)
    return principle, messages, reply, critique if rng.random() < 0.2 else critique.split("\n")[0]


def revise_sample(rng: random.Random) -> Sample:
    """A revision: a safe alternative that answers the user, or a real answer to an everyday request."""
    ask = world.draw_ask(rng, unsafe=rng.random() < 0.8)
    principle, messages, reply, critique = revise_case(rng, ask)
    better = world.safe_reply(ask, rng) if ask.unsafe else world.good_reply(ask, rng)
    return Sample("revise", (revise_prompt(principle, messages, reply, critique),), better)


def judge_case(rng: random.Random, ask: Ask, unseen: bool = False) -> tuple[str, list[Message], str, str]:
    """Principle, conversation and two different replies for a comparison."""
    weights = (45, 35, 10, 10) if ask.unsafe else (55, 25, 20)
    a = any_reply(ask, rng, weights)
    b = any_reply(ask, rng, weights)
    while b == a:
        b = any_reply(ask, rng, weights)
    covered = rng.random() < (0.65 if ask.unsafe else 0.5)
    return principle_for(ask, rng, covered, unseen), world.conversation(ask, rng), a, b


def judge_prompt(principle: str, messages: Sequence[Message], a: str, b: str) -> Message:
    """The user turn that asks for a comparison."""
    content = render("compare", conversation=transcript(messages), principle=principle, a=a, b=b)
    return Message(role="user", content=content)


def judge_sample(rng: random.Random) -> Sample:
    """A comparison with a soft target."""
    ask = world.draw_ask(rng, unsafe=rng.random() < 0.75)
    principle, messages, a, b = judge_case(rng, ask)
    p = preference(principle, messages, a, b)
    assert p is not None
    logit = math.log(p / (1 - p)) + POSITION_BIAS + rng.gauss(0, NOISE)
    p_a = 1 / (1 + math.exp(-logit))
    return Sample("judge", (judge_prompt(principle, messages, a, b),), "A" if p_a >= 0.5 else "B", p_a)


MAKERS = {
    "answer": answer_sample,
    "critique": critique_sample,
    "revise": revise_sample,
    "judge": judge_sample,
}


def stream(rng: random.Random, count: int) -> list[Sample]:
    """`count` samples of mixed skills."""
    skills = rng.choices(list(MIX), list(MIX.values()), k=count)
    return [MAKERS[skill](rng) for skill in skills]
