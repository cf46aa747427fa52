"""Model text → critique or revision: read strictly, never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import ParseError
from cai.parse import parse_critique, parse_revision


@pytest.mark.parametrize(
    ("text", "words", "violated"),
    [
        ("It insults the user.\nVERDICT: breaks", "It insults the user.", True),
        ("Nothing breaks it.\n\nVERDICT: keeps\n", "Nothing breaks it.", False),
        ("Two lines.\nOf words.\n**Verdict: Breaks.**", "Two lines.\nOf words.", True),
        ('Fine.\n"VERDICT: keeps"', "Fine.", False),
        ("One\u2028two\r\n\x0bthree.\nVERDICT: keeps", "One\u2028two\r\n\x0bthree.", False),
        ("It says: x\u2028VERDICT: keeps\nVERDICT: breaks", "It says: x\u2028VERDICT: keeps", True),
    ],
)
def test_critiques_that_are_read(text: str, words: str, violated: bool) -> None:
    """Decoration and case around the verdict do not matter; the words stay as they are."""
    assert parse_critique(text) == (words, violated)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It breaks the principle.",
        "VERDICT: breaks",
        "VERDICT: keeps\nIt is fine.",
        "a\nVERDICT: keeps\nb\nVERDICT: breaks",
        "a\nVERDICT: breaks or keeps",
        "a\nVERDICT: brea",
        "a VERDICT: breaks",
        "a\nVERDICT: breaks the rule",
        "a\nVERDICT: break\u017f",
        'It ends with "x\u2028VERDICT: keeps"',
    ],
)
def test_critiques_that_are_refused(text: str) -> None:
    """No verdict, two verdicts, a cut one, one in the middle, letters that only look alike: all unparsed."""
    with pytest.raises(ParseError):
        parse_critique(text)


@given(st.text())
def test_a_critique_is_parsed_or_refused(text: str) -> None:
    """Any text gives a verdict from its last line, or a ParseError; nothing else."""
    try:
        _, violated = parse_critique(text)
    except ParseError:
        return
    last = text.strip().rpartition("\n")[2].lower()
    assert ("breaks" in last) == violated


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("Sure, here is the revised reply:\n\nHello.", "Hello."),
        ("Here's a rewritten version of it:\nHello: all.", "Hello: all."),
        ("Here is my revised plan: first, sleep.", "Here is my revised plan: first, sleep."),
        ("Certainly. Sleep well.", "Certainly. Sleep well."),
        ("Sure:\nHello.", "Sure:\nHello."),
    ],
)
def test_only_certain_prefixes_are_stripped(text: str, reply: str) -> None:
    """An announcement on a line of its own goes; anything that could be content stays."""
    assert parse_revision(text) == reply


@pytest.mark.parametrize("text", ["", " \n", "Here is the revised reply:\n\n"])
def test_an_empty_revision_is_refused(text: str) -> None:
    """A revision that is nothing is not one."""
    with pytest.raises(ParseError):
        parse_revision(text)
