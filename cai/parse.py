"""From a model's text to what the template asked for. Raises ParseError, never guesses, never repairs."""

from __future__ import annotations

import re

from cai.errors import ParseError

_VERDICT = re.compile(r"[*_`\"\s]*VERDICT\s*:[*_`\"\s]*(breaks|keeps)[*_`\".\s]*", re.IGNORECASE)
_LEAKED_PREFIX = re.compile(
    r"\A(?:sure|certainly|of course|okay|here(?:'s| is| are))\b[^\n:]{0,120}"
    r"\b(?:revised|rewritten|revision|rewrite|new reply|new version)\b[^\n:]{0,80}:[ \t]*(?:\n+|\Z)",
    re.IGNORECASE,
)


def parse_critique(text: str) -> tuple[str, bool]:
    """Split a critique into its words and its verdict (True: the reply breaks the principle).

    The last line that is not empty must be the verdict and the only one. Raises ParseError otherwise.
    """
    lines = text.strip().splitlines()
    verdicts = [match for line in lines if (match := _VERDICT.fullmatch(line))]
    if not lines or not _VERDICT.fullmatch(lines[-1]):
        raise ParseError("the critique does not end with a VERDICT line")
    if len(verdicts) != 1:
        raise ParseError(f"the critique has {len(verdicts)} VERDICT lines")
    words = "\n".join(lines[:-1]).strip()
    if not words:
        raise ParseError("the critique is a bare verdict without words")
    return words, verdicts[0][1].lower() == "breaks"


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
