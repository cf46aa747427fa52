"""What changed between two texts, word by word: in colours, or in marks where there are none."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from rich.text import Text

from cai.report.tables import plain

ALIKE = (
    0.4  # difflib ratio of the words, below which two texts are shown one after the other, not interleaved
)
_WORD = re.compile(r"\s*\S+")
STYLES = {"same": "", "deleted": "red strike", "inserted": "green"}
MARKS = {"same": ("", ""), "deleted": ("[-", "-]"), "inserted": ("{+", "+}")}


class Piece(NamedTuple):
    """Words in a row, with the blanks before them in `blank`, that both texts have, or only one of them."""

    kind: Literal["same", "deleted", "inserted"]
    blank: str
    words: str


def word_diff(before: str, after: str) -> list[Piece]:
    """The pieces that make `before` into `after`; where only blanks differ, those of `after` count."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, [w.strip() for w in old], [w.strip() for w in new], autojunk=False)
    blocks = matcher.get_opcodes() if matcher.ratio() >= ALIKE else [("replace", 0, len(old), 0, len(new))]
    pieces: list[Piece] = []
    for kind, old_from, old_to, new_from, new_to in blocks:
        if kind == "equal":
            pieces += _piece("same", new[new_from:new_to])
        else:
            pieces += _piece("deleted", old[old_from:old_to]) + _piece("inserted", new[new_from:new_to])
    return pieces


def diff_text(before: str, after: str, *, colours: bool) -> Text:
    """The difference for a terminal: deletions red and struck, insertions green, or [-marks-] and {+marks+}."""
    text = Text()
    for index, (kind, blank, words) in enumerate(word_diff(before, after)):
        text.append(blank or (" " if index else ""))
        left, right = MARKS[kind] if not colours else ("", "")
        text.append_text(shown(f"{left}{words}{right}", STYLES[kind]))
    return text


def shown(text: str, style: str = "") -> Text:
    """Text of a model or a file that cannot steer a terminal."""
    return Text.from_markup(plain(text), style=style)


def _piece(kind: Literal["same", "deleted", "inserted"], words: list[str]) -> list[Piece]:
    text = "".join(words)
    bare = text.lstrip()
    return [Piece(kind, text[: len(text) - len(bare)], bare)] if words else []
