"""Blocks of good and bad replies in a prose specification → tests.

A block holds turns between tags (<system>, <developer>, <user>, <assistant>, <tool>) and comparisons, whose
replies are marked <!-- GOOD -->, <!-- BAD --> or <!-- OK -->. Within a comparison every good reply is better
than every bad one. A conversation goes on with its first good reply.
"""

from __future__ import annotations

import html
import re
from typing import NamedTuple

from cai.constitution.principle import PrincipleTest
from cai.imports.draft import merged
from cai.rows import Message, Role

_TAG = re.compile(
    r"^[ \t]*<(?P<name>system|developer|user|assistant|tool|untrusted|comparison)\b(?P<more>[^>\n]*)>"
    r"[ \t]*+(?:<!--(?P<mark>.*?)-->)?[ \t]*+$",
    re.MULTILINE,
)
_MARK = re.compile(r"\s*(GOOD|BAD|OK)\b(.*)", re.DOTALL)
_NOTE = re.compile(r"[^\s:,]")
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class Turn(NamedTuple):
    """One tagged text. `shown`: the text with its tags, where these say more than a role does."""

    role: Role | None
    content: str
    tagged: str
    mark: str | None
    note: bool

    @property
    def shown(self) -> str:
        """The text, in its tags where a message could not say what they say."""
        return self.content if self.role else self.tagged


class Block(NamedTuple):
    """The tests of a block. `judged`: it has a good and a bad reply; `spare`: replies that are in no test."""

    tests: list[PrincipleTest]
    judged: bool
    spare: int
    notes: int


def read_block(text: str) -> Block | None:
    """The tests in a block; None for a text without marked replies."""
    context: list[Turn] = []
    tests: list[PrincipleTest] = []
    used, marked = 0, []
    for part in _parts(text):
        if isinstance(part, Turn):
            context.append(part)
            continue
        good, bad = ([turn for turn in part if turn.mark == mark] for mark in ("GOOD", "BAD"))
        marked += part
        prompt = _prompt(context)
        if prompt and good and bad:
            tests += [
                PrincipleTest(prompt=prompt, better=one.shown, worse=two.shown) for one in good for two in bad
            ]
            used += len(good) + len(bad)
        context += [turn._replace(mark=None) for turn in (good or part)[:1]]
    if not any(turn.mark for turn in marked):
        return None
    judged = {"GOOD", "BAD"} <= {turn.mark for turn in marked}
    return Block(tests, judged, len(marked) - used, sum(turn.note for turn in marked))


def _parts(text: str, nested: bool = False) -> list[Turn | list[Turn]]:
    """Turns, and lists of them for comparisons; what stands between tags is passed over.

    A comparison within a comparison (`nested`) is passed over as well.
    """
    found: list[Turn | list[Turn]] = []
    place = 0
    while opened := _TAG.search(text, place):
        closed = re.compile(rf"^[ \t]*</{opened['name']}>[ \t]*$", re.MULTILINE).search(text, opened.end())
        inside = text[opened.end() : closed.start() if closed else len(text)]
        place = closed.end() if closed else len(text)
        if opened["name"] != "comparison":
            found.append(_turn(opened, html.unescape(inside).strip()))
        elif not nested:
            found.append([part for part in _parts(inside, True) if isinstance(part, Turn) and part.content])
    return found


def _turn(opened: re.Match[str], content: str) -> Turn:
    mark = _MARK.match(opened["mark"] or "")
    tag = f"{opened['name']}{opened['more'].rstrip()}"
    role = None if opened["more"].strip() else _ROLES.get(opened["name"])
    note = bool(mark and _NOTE.search(mark[2]))
    return Turn(role, content, f"<{tag}>\n{content}\n</{opened['name']}>", mark[1] if mark else None, note)


def _prompt(context: list[Turn]) -> tuple[Message, ...]:
    """The turns so far as messages that end with the user's: what follows the last user turn goes into it."""
    last = max((number for number, turn in enumerate(context) if turn.role == "user"), default=-1)
    if not context or not any(turn.content for turn in context):
        return ()
    turns = [Message(role=turn.role or "user", content=turn.shown) for turn in context[: last + 1]]
    if last < 0:  # nobody asks: the system turns stay, the last turn of all is what is replied to
        turns = [Message(role="system", content=t.shown) for t in context[:-1] if t.role == "system"]
        rest = [turn for turn in context[:-1] if turn.role != "system"] + context[-1:]
        return (*turns, *merged(Message(role="user", content=turn.tagged) for turn in rest))
    turns += [Message(role="user", content=turn.tagged) for turn in context[last + 1 :]]
    return merged(turns)
