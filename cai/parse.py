"""From a model's text to what the template asked for. Raises ParseError, never guesses, never repairs."""

from __future__ import annotations

import re

from cai.errors import ParseError

# (?ai: …): else "ſ" would pass for an s
_VERDICT = re.compile(r"[*_`\"\s]*(?ai:VERDICT)\s*:[*_`\"\s]*((?ai:breaks|keeps))[*_`\".\s]*")
_LEAKED_PREFIX = re.compile(
    r"\A(?:sure|certainly|of course|okay|here(?:'s| is| are))\b[^\n:]{0,120}"
    r"\b(?:revised|rewritten|revision|rewrite|new reply|new version)\b[^\n:]{0,80}:[ \t]*(?:\n+|\Z)",
    re.IGNORECASE,
)


def parse_critique(text: str) -> tuple[str, bool]:
    """Split a critique into its words and its verdict (True: the reply breaks the principle).

    The last line that is not empty must be the verdict and the only one. Raises ParseError otherwise.
    """
    before, _, last = text.strip().rpartition("\n")  # no other separator: a quoted text may hold any of them
    verdict = _VERDICT.fullmatch(last)
    if verdict is None:
        raise ParseError("the critique does not end with a VERDICT line")
    if others := sum(_VERDICT.fullmatch(line) is not None for line in before.split("\n")):
        raise ParseError(f"the critique has {1 + others} VERDICT lines")
    words = before.strip()
    if not words:
        raise ParseError("the critique is a bare verdict without words")
    return words, verdict[1].lower() == "breaks"


def leaked_prefix(text: str) -> str:
    """The first line of a revision that certainly announces it ("Sure, here is the revised reply:"); else empty."""
    found = _LEAKED_PREFIX.match(text.strip())
    return found[0] if found else ""


def parse_revision(text: str) -> str:
    """The new reply, without a first line that certainly announces it. Raises ParseError where nothing is left."""
    reply = text.strip().removeprefix(leaked_prefix(text)).strip()
    if not reply:
        raise ParseError("the revision is empty")
    return reply
