"""What can be seen of a statement without a model: that it says nothing, repeats another one, or contradicts it.

All of it goes by words, not letters, and costs little more than reading them: a thousand statements take less than
a second. The lists are English; statements in other languages are only compared with each other.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NEAR_DUPLICATE = (
    0.75  # share of words in common and in order (difflib ratio), from which statements are alike
)
SHORT = 4  # words, up to which a statement that only names a virtue is called vague


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEGATIONS = _listed(
    "not never no cannot without avoid avoids avoiding refrain refrains refraining refuse refuses decline declines"
)
_EMPTY = _listed("""
    a all an and any are as at always am be been being but by can could do does each ever every for from has have having
    if in is it its manner may more most much must of on only or please shall should so such than that the their them
    these they this those to tries try very was way ways when where which while will with would you your
""")
_SUBJECTS = _listed("ai assistant assistants chatbot i model models reply replies response responses we")
_ACTORS = _SUBJECTS | _listed("""
    act acts acting answer answers behave behaves behaving choose everyone human humans people person respond responds
    someone user users
""")
_VAGUE = _listed("""
    acceptable adequate appropriate appropriately bad badly best better correctly decent ethical ethically fine good
    great improper inappropriate inappropriately moral morally nice nicely ok okay poor positive proper properly quality
    responsible responsibly right suitable suitably unacceptable unethical well wrong wrongly
""")
_VIRTUES = _listed("""
    careful caring compassionate courteous empathetic ethics fair fairness friendly gentle harmless harmlessness helpful
    helpfulness honest honesty integrity kind kindly kindness neutral polite politely politeness privacy professional
    respect respectful respectfully safe safely safety thoughtful truthful truthfulness wise
""")
_SAME = {"is": "be", "are": "be", "am": "be", "being": "be", "has": "have", "having": "have"}
_CONTRACTION = re.compile(r"n['’]t\b")
_WORD = re.compile(r"[^\W_]+")
_SUFFIX = re.compile(r"(?:ing|es|ed|s|e)$")


class Alike(NamedTuple):
    """Statement `later` is nearly statement `earlier`, or says the opposite of it."""

    later: int
    earlier: int
    opposite: bool


def words(text: str) -> list[str]:
    """The words of a text in lower case; "don't" is two."""
    plain = _CONTRACTION.sub(" not", text.lower().replace("can't", "cannot").replace("won't", "will not"))
    return _WORD.findall(plain)


def is_vague(statement: str) -> bool:
    """Whether a statement names nothing that a judge could look for in a reply, such as "Be good"."""
    found = words(statement)
    if len(found) < 2:
        return not found or found[0].isascii()
    said = set(found) - _EMPTY - _ACTORS - _NEGATIONS - _VAGUE
    return not said or (len(found) <= SHORT and said <= _VIRTUES)


def find_alike(statements: Sequence[str], start: int = 0) -> Iterator[Alike]:
    """For each statement from the `start`-th on, the first one before it that it contradicts or nearly repeats.

    Two statements can only be alike where they share one of their rarest words (prefix filter of set-similarity
    joins), so that few pairs are compared.
    """
    texts = [words(statement) for statement in statements]
    counts = Counter(word for text in texts for word in set(text))
    bits = {word: 1 << number for number, word in enumerate(counts)}
    masks = [sum(bits[word] for word in set(text)) for text in texts]
    senses: dict[tuple[str, ...], dict[bool, int]] = defaultdict(dict)
    holders: dict[str, list[int]] = defaultdict(list)

    def alike(one: int, two: int) -> bool:
        """Two bounds on the ratio come before the ratio itself; on the way they settle nearly all pairs."""
        a, b = texts[one], texts[two]
        needed = NEAR_DUPLICATE * (len(a) + len(b)) / 2
        repeated = min(len(a) - masks[one].bit_count(), len(b) - masks[two].bit_count())
        if min(len(a), len(b)) < needed or (masks[one] & masks[two]).bit_count() + repeated < needed:
            return False
        return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= NEAR_DUPLICATE

    for number, text in enumerate(texts):
        sense, negated = _sense(text)
        rare = sorted(set(text), key=lambda word: (counts[word], word))[: _prefix(text)]
        if number >= start and text:
            opposite = senses[sense].get(not negated) if sense else None
            same = senses[sense].get(negated) if sense else None
            if opposite is None and same is None:
                near = sorted({other for word in rare for other in holders[word]})
                same = next((other for other in near if alike(other, number)), None)
            if opposite is not None:
                yield Alike(number, opposite, True)
            elif same is not None:
                yield Alike(number, same, False)
        if sense:
            senses[sense].setdefault(negated, number)
        for word in rare:
            holders[word].append(number)


def _prefix(text: list[str]) -> int:
    """How many of its rarest distinct words a statement must be looked up by.

    Whatever is alike to it shares at least NEAR_DUPLICATE / (2 - NEAR_DUPLICATE) of its words.
    """
    needed = math.ceil(len(text) * NEAR_DUPLICATE / (2 - NEAR_DUPLICATE))
    return min(len(text) - needed + 1, len(set(text)))


def _sense(text: list[str]) -> tuple[tuple[str, ...], bool]:
    """What a statement is about, without its negations and auxiliaries, and whether it is negated."""
    negated = sum(word in _NEGATIONS for word in text) % 2 == 1
    kept = (_SAME.get(word, word) for word in text if word not in _NEGATIONS and word not in _SUBJECTS)
    return tuple(_stem(word) for word in kept if word not in _EMPTY or word in ("be", "have")), negated


def _stem(word: str) -> str:
    """Forms of one verb come out the same; what comes out need not be a word."""
    if len(word) < 4:
        return word
    stem = _SUFFIX.sub("", word)
    return stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
