"""Text of a file, a model or a command line as it may be shown in a terminal: characters that steer one are replaced.

Only what is shown goes through here. Rows keep every text as it is.
"""

from __future__ import annotations

import re

REPLACED = "\N{REPLACEMENT CHARACTER}"
# C0 and C1 without tab and newline, DEL, marks of direction, line separators that are no newline, half characters
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BREAK = re.compile(r"[\r\n\t]+")


def printable(text: str) -> str:
    """Text in one line, of characters that leave a mark."""
    return text if text.isprintable() else "".join(c if c.isprintable() else REPLACED for c in text)


def one_line(text: str) -> str:
    """As `printable`, with line ends and tabs as blanks."""
    return text if text.isprintable() else printable(_BREAK.sub(" ", text).strip())


def printable_lines(text: str) -> str:
    """Text with its lines, tabs and joined characters, and nothing that moves a cursor, colours or turns around."""
    return _STEERING.sub(REPLACED, text)


def escaped(text: str) -> str:
    """JSON text that means the same, with such characters as escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shortened(text: str, most: int) -> str:
    """At most so many characters of a text; where it is longer, the last one says so."""
    return text if len(text) <= most else text[: most - 1] + "…"
