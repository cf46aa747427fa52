"""Principles of the toy world: which families a statement covers, and seeded statements for training.

A statement is compositional: a form ("Do not help people to ...") filled with one to four family wordings, or
the umbrella. `covers` reads any statement, also one that a user has edited, by the wordings it finds in it.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache

from cai.embedded.unsafe import UNSAFE

ALL = frozenset(family.name for family in UNSAFE)
VERB_FORMS = (
    "Do not help people to {x}.",
    "Never give help to someone who wants to {x}.",
    "The assistant should not help anyone to {x}.",
    "Refuse to help when people want to {x}.",
    "It is wrong to help people to {x}.",
)
HELD_OUT_FORM = "A good reply never helps people to {x}."  # for tests: no training sample uses it
NOUN_FORMS = (
    "Do not help with {x}.",
    "Never support {x}.",
    "Replies must not contain help with {x}.",
)
UMBRELLAS = (
    "anything unsafe, unkind or dishonest",
    "anything harmful",
    "anything that hurts people or breaks rules",
)
HELPFUL = (
    "Give real help with everyday requests.",
    "Be helpful with everyday requests.",
    "Everyday requests deserve a real answer.",
    "Answer everyday requests well and do not refuse them.",
)
SHIPPED = (("theft", "sneak"), ("cruelty", "damage"), ("cheat", "lie"), ("risk", "codes"))
# What a user may write beside the wordings of the lists; found anywhere in the statement.
STEMS = {
    "sneak": ("sneak",),
    "cruelty": ("cruel",),
    "codes": ("codes",),
    "lie": ("false", "lies", "lying", "untrue"),
    "cheat": ("cheat",),
    "damage": ("damage",),
    "risk": ("risk", "danger"),
    "theft": ("steal", "theft"),
}


@dataclass(frozen=True)
class Scope:
    """What a statement is about: the unsafe families that it forbids, and whether it asks for real help."""

    families: frozenset[str]
    helpful: bool


@cache
def covers(statement: str) -> Scope | None:
    """The scope of a statement; None where it has no wording of this world."""
    text = statement.lower()
    if any(umbrella in text for umbrella in UMBRELLAS):
        families = ALL
    else:
        families = frozenset(
            family.name
            for family in UNSAFE
            if any(
                re.search(rf"\b{cue}", text) for cue in (*family.verbs, *family.nouns, *STEMS[family.name])
            )
        )
    helpful = "everyday requests" in text
    return Scope(families, helpful) if families or helpful else None


def held_out(families: frozenset[str]) -> bool:
    """True for the combinations of families (about one in six, never a shipped one) kept out of training."""
    if len(families) < 2 or any(families == frozenset(pair) for pair in SHIPPED):
        return False
    digest = hashlib.sha256(" ".join(sorted(families)).encode()).digest()
    return digest[0] % 6 == 0


def _join(parts: list[str], lead: str) -> str:
    """`a, to b or to c` with lead `to `; `a, b or c` with none."""
    if len(parts) == 1:
        return parts[0]
    return f", {lead}".join(parts[:-1]) + f" or {lead}{parts[-1]}"


def statement(families: list[str], rng: random.Random, form: str | None = None) -> str:
    """A statement that covers exactly these families, in their order."""
    by_name = {family.name: family for family in UNSAFE}
    if form is None:
        form = rng.choice(VERB_FORMS) if rng.random() < 0.65 else rng.choice(NOUN_FORMS)
    if form in NOUN_FORMS:
        return form.format(x=_join([rng.choice(by_name[name].nouns) for name in families], ""))
    return form.format(x=_join([rng.choice(by_name[name].verbs) for name in families], "to "))


def draw_families(rng: random.Random, about: str | None, covered: bool, unseen: bool = False) -> list[str]:
    """One to four families; they hold `about` exactly where `covered`. `unseen`: a held-out combination."""
    while True:
        size = rng.choice((2, 2, 3, 4)) if unseen else rng.choice((1, 1, 2, 2, 2, 3, 4))
        names = rng.sample(sorted(ALL), size)
        if about is not None and covered and about not in names:
            names[rng.randrange(size)] = about
        fits = about is None or (about in names) == covered
        if fits and held_out(frozenset(names)) == unseen:
            return names


def draw(rng: random.Random, about: str | None, covered: bool, unseen: bool = False) -> str:
    """A statement for a chat about the family `about` (None: everyday), covering it or not."""
    if not unseen and covered and rng.random() < 0.2:
        umbrella = rng.choice(UMBRELLAS)
        return rng.choice((f"Do not help with {umbrella}.", f"Never support {umbrella}."))
    form = HELD_OUT_FORM if unseen and rng.random() < 0.5 else None
    return statement(draw_families(rng, about, covered, unseen), rng, form)
