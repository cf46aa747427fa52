"""The toy world as text: every ask, every reply sentence, and seeded conversations made of them.

All sentences are finite and concrete (`SENTENCES`, `ASKS`), so that the checkers look replies up instead of
judging them. A reply is one to three such sentences. Nothing here knows about principles or about skills.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

from cai.embedded.everyday import EVERYDAY
from cai.embedded.lexicon import HELD_OUT, Everyday, Unsafe
from cai.embedded.unsafe import UNSAFE
from cai.rows import Message

Kind = Literal["harmful", "instead", "reason", "decline", "good", "tip", "opener", "cover"]
Family = Unsafe | Everyday

GREETINGS = ("Hi. ", "Hello! ", "Please help. ", "A quick question. ")
OPENERS = ("Sure.", "Of course.", "Gladly.")
COVERS = ("Nobody will notice.", "Be quick about it.", "Keep it to yourself.")
DECLINES = (
    "Sorry, I can not help with that.",
    "I would rather not do that.",
    "No, I will not help with this.",
)
SYSTEM = "You are a helpful assistant."
_ALL: tuple[Family, ...] = (*UNSAFE, *EVERYDAY)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


@dataclass(frozen=True)
class Sentence:
    """What one concrete sentence of a reply is: its kind, its family, the thing it names (or None)."""

    kind: Kind
    family: str | None = None
    thing: str | None = None


@dataclass(frozen=True)
class Ask:
    """A request: family, the thing asked about, and which of the family's asks it is."""

    family: str
    thing: str
    index: int

    @property
    def unsafe(self) -> bool:
        """True where the family is one of the eight unsafe ones."""
        return isinstance(FAMILIES[self.family], Unsafe)

    @property
    def text(self) -> str:
        """The request in words, without a greeting."""
        return FAMILIES[self.family].asks[self.index].format(x=self.thing)

    @property
    def held_out(self) -> bool:
        """True where no training conversation and no demo prompt may ask this."""
        family = FAMILIES[self.family]
        if isinstance(family, Unsafe):
            late = family.things.index(self.thing) >= len(family.things) - HELD_OUT
            return late or self.index == len(family.asks) - 1
        return hashlib.sha256(self.text.encode()).digest()[0] < 52


def _sentences() -> dict[str, Sentence]:
    """Every sentence that a reply can be made of."""
    table: dict[str, Sentence] = {}

    def add(kind: Kind, templates: tuple[str, ...], family: Family | None) -> None:
        for template in templates:
            named = family is not None and "{x}" in template
            for thing in family.things if named and family is not None else (None,):
                text = template if thing is None else template.format(x=thing)
                if text in table:
                    raise ValueError(f"ambiguous sentence in the toy world: {text!r}")
                table[text] = Sentence(kind, family.name if family else None, thing)

    for kind, shared in (("opener", OPENERS), ("cover", COVERS), ("decline", DECLINES)):
        add(kind, shared, None)  # type: ignore[arg-type]
    for unsafe in UNSAFE:
        add("harmful", unsafe.harmful, unsafe)
        add("instead", unsafe.instead, unsafe)
        add("reason", unsafe.reasons, unsafe)
    for everyday in EVERYDAY:
        add("good", everyday.good, everyday)
        add("tip", everyday.tips, everyday)
    return table


SENTENCES = _sentences()
ASKS: dict[str, Ask] = {
    ask.text: ask
    for family in FAMILIES.values()
    for thing in family.things
    for index in range(len(family.asks))
    for ask in (Ask(family.name, thing, index),)
}


def read_ask(text: str) -> Ask | None:
    """The request in a user turn, with or without a greeting; None where it is not of this world."""
    stripped = text.strip()
    for greeting in GREETINGS:
        stripped = stripped.removeprefix(greeting)
    return ASKS.get(stripped)


def split_sentences(text: str) -> list[str]:
    """The sentences of a reply."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


def draw_ask(rng: random.Random, unsafe: bool, held_out: bool = False, family: str | None = None) -> Ask:
    """A random request of the kind; `held_out` picks the other side of the split."""
    pool: tuple[Family, ...] = UNSAFE if unsafe else EVERYDAY
    while True:
        chosen = FAMILIES[family] if family else rng.choice(pool)
        ask = Ask(chosen.name, rng.choice(chosen.things), rng.randrange(len(chosen.asks)))
        if ask.held_out == held_out:
            return ask


def harmful_reply(ask: Ask, rng: random.Random) -> str:
    """A reply that complies with an unsafe request."""
    family = FAMILIES[ask.family]
    assert isinstance(family, Unsafe)
    head = f"{rng.choice(OPENERS)} " if rng.random() < 0.4 else ""
    tail = f" {rng.choice(COVERS)}" if rng.random() < 0.4 else ""
    return head + rng.choice(family.harmful).format(x=ask.thing) + tail


def safe_reply(ask: Ask, rng: random.Random) -> str:
    """A reply that declines an unsafe request and offers something better."""
    family = FAMILIES[ask.family]
    assert isinstance(family, Unsafe)
    heads = family.reasons * 2 + DECLINES
    head = f"{rng.choice(heads)} " if rng.random() < 0.8 else ""
    return head + rng.choice(family.instead[:-1] * 2 + family.instead[-1:]).format(x=ask.thing)


def refusal(rng: random.Random) -> str:
    """A bare refusal."""
    return rng.choice(DECLINES)


def good_reply(ask: Ask, rng: random.Random) -> str:
    """A real answer to an everyday request: mostly the one that fits the ask best."""
    family = FAMILIES[ask.family]
    assert isinstance(family, Everyday)
    head = f"{rng.choice(OPENERS)} " if rng.random() < 0.2 else ""
    tail = f" {rng.choice(family.tips)}" if rng.random() < 0.4 else ""
    core = family.good[min(ask.index, 3)] if rng.random() < 0.5 else rng.choice(family.good)
    return head + core.format(x=ask.thing) + tail


def off_topic_reply(ask: Ask, rng: random.Random) -> str:
    """A harmless reply to another request, sometimes only another thing of the same family."""
    family = FAMILIES[ask.family]
    if rng.random() < 0.3:
        thing = rng.choice([name for name in family.things if name != ask.thing])
        named = family.instead[:-1] if isinstance(family, Unsafe) else family.good[:-1]
        return rng.choice(named).format(x=thing)
    while True:
        other = draw_ask(rng, unsafe=False)
        if other.family != ask.family:
            return good_reply(other, rng)


def conversation(ask: Ask, rng: random.Random, multi_turn: float = 0.15) -> list[Message]:
    """Messages that end in the request: sometimes greeted, after an earlier exchange, under a system turn."""
    greeting = rng.choice(GREETINGS) if rng.random() < 0.25 else ""
    turns = [Message(role="user", content=greeting + ask.text)]
    if rng.random() < multi_turn:
        earlier = draw_ask(rng, unsafe=False)
        reply = good_reply(earlier, rng)
        turns = [Message(role="user", content=earlier.text), Message(role="assistant", content=reply), *turns]
    if rng.random() < 0.04:
        turns.insert(0, Message(role="system", content=SYSTEM))
    return turns
