"""Names and texts of files and models in markdown that a hub or a UI renders: they are read, and do nothing."""

from __future__ import annotations

import html
import re

from cai.printable import REPLACED, printable

MOST_NAME, MOST_TEXT = 200, 1000  # characters
_MARKUP = re.compile(r"([\\`*_{}\[\]|~$:@#+!()])")
_ENDS_CODE = re.compile(r"[`|]")


def shown(text: str) -> str:
    """A name as markdown that says just this: no markup, no line of its own, nothing that is not seen."""
    return escaped(printable(text[:MOST_NAME])) or "–"


def code(text: str) -> str:
    """A name for between backticks, also in a table: it ends neither."""
    return _ENDS_CODE.sub(REPLACED, printable(text[:MOST_NAME]))


def quoted(text: str, most: int = MOST_TEXT) -> str:
    """The first so many characters of a text as a quote, line by line, without any markup of its own."""
    return "\n".join(f"> {escaped(printable(line))}" for line in text[:most].splitlines()) or "> "


def escaped(text: str) -> str:
    """A line without any markup: neither markdown nor HTML, and no address that becomes a link."""
    return _MARKUP.sub(r"\\\1", html.escape(text, quote=False))
