"""What does not belong into an answer: announcements, transcript markers, words of the critique, talk about the text.

An announcement that the pipeline itself takes away (`cai.parse`) is one here as well; what it leaves, because it is
not certain, is counted here as a defect.
"""

from __future__ import annotations

import re

from cai.parse import leaked_prefix

RUN = 12  # words in a row that a revision shares with its critique by more than taking up its advice …
SPOKEN = 6  # … or so many, where one of them is a critic's
_CRITICS = frozenset({"assistant", "assistant's", "critique", "response", "reply", "revision"})

_LABEL = re.compile(
    r"\A[\s*_#>\[\"“]*(?:(?:the |my |a |new |final |improved |updated |better |suggested |proposed )*"
    r"(?:revis(?:ed|ion)|rewritten|rewrite|improved|updated|modified|edited|amended|corrected)"
    r"(?: (?:version|response|reply|answer|text|assistant response))*|assistant(?:'s)?(?: (?:response|reply|answer))?|"
    r"ai|response|answer|reply|final answer|critique|human|user|output)[*_\"”\]]*\s*:",
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(
    r"\A[\s*_#>\"“]*(?:(?:sure|certainly|of course|okay|ok|absolutely|thank you|thanks|understood|got it|apologies)\b"
    r"[^\n:]{0,80})?(?:here(?:'s|’s| is| are)|below is|this is|i(?:'ve| have|’ve)|the following is)\b[^\n:]{0,60}"
    r"\b(?:revis(?:ed|ion)|rewritten|rewrite|rewrote|improved|updated|amended|edited)\b[^\n:]{0,80}(?::|\n|\Z)",
    re.IGNORECASE,
)
_MARKERS = re.compile(
    r"(?:\A|\n)[ \t*#]*(?:critique ?request|revision ?request|critique|revision|human|user|assistant|ai)[*]*[ \t]*:"
    r"|\n[ \t]*(?:-{5,}|={5,}|\*{5,}|_{5,})[ \t]*(?:\n|\Z)",
    re.IGNORECASE,
)
_META = re.compile(
    r"\b(?:(?:the|my|your|this|that|its) (?:previous|original|initial|earlier|prior|last|first|above|revised|rewritten|"
    r"new|updated|assistant(?:'s)?) (?:assistant )?(?:response|reply|answer|version|draft|revision|message)|"
    r"(?:the|this|your|per the|on the) (?:critique|criticism|feedback|revision)(?= (?:above|below|provided|given|i "
    r"received|points?|says?|notes?|suggest\w*|that|is|has|removes?|addresses|was)|[.,;:])|"
    r"(?:as|per) (?:per )?(?:the|your) (?:critique|feedback|request to revise|revision request)|"
    r"the (?:ai )?assistant(?:'s)? (?:response|reply|answer|should|could|did|has|was|failed|provided|said)|"
    r"(?:i|we) (?:have |'ve |’ve )?(?:revised|rewritten|rewrote|reworded|rephrased|removed|amended|edited|updated) "
    r"(?:the|my|this|any|it|all)|this (?:revision|rewrite|version|response) (?:removes?|avoids?|addresses|no longer|"
    r"is (?:now|more|less|better))|in (?:this|my|the) (?:revision|rewrite|revised))\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“][^\"”\n]{1,600}[\"”]")
_WORDS = re.compile(r"\w+(?:['’]\w+)?")


def announcement(text: str) -> str:
    """The words by which a revision announces or labels itself instead of answering; else empty."""
    found = leaked_prefix(text)
    if not found and (match := _ANNOUNCED.match(text) or _LABEL.match(text)):
        found = match[0]
    return found.strip()


def marker(text: str, known: str) -> int | None:
    """Where a marker of the transcript or a ruler stands in a text after its beginning; None where none does.

    `known`: texts that came before, whose markers are no leaks.
    """
    body = text.rstrip()
    for found in _MARKERS.finditer(body):
        if found.start() > 0 and found[0].strip() not in known:
            return found.start()
    return None


def meta_talk(text: str, known: str) -> int | None:
    """Where a text speaks of itself or of its revision; None where it does not, or the words were there before."""
    before = known.lower()
    return next((m.start() for m in _META.finditer(text) if m[0].lower() not in before), None)


def critique_run(text: str, critique: str, known: str) -> str:
    """Words in a row of the critique's own that stand in a text and did not before; else empty.

    RUN of them, or SPOKEN with a word that only a critic has cause to use: a revision may well take up what a critique
    proposes in a few words, or quotes.
    """
    words = _words(_QUOTED.sub(" ", critique))
    if not words:
        return ""
    revised, before = _words(text), _words(known)
    for length in (RUN, SPOKEN):
        own = _runs(words, length) & _runs(revised, length)
        own -= _runs(before, length) if own else set()
        for start in range(len(revised) - length + 1):
            run = tuple(revised[start : start + length])
            if run in own and (length == RUN or _CRITICS & set(run)):
                return " ".join(run)
    return ""


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}
