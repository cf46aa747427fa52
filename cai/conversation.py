"""One row of a prompt file → the conversation in it, cut so that it ends in the user turn to answer.

Rows come in the shapes that published prompt sets have; nothing is guessed beyond those. A row that holds no
such conversation raises `Unusable` with the reason under which it is dropped. Text is kept as it is, except
for blanks around the turns of a transcript.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from cai.rows import Message, Role

COLUMNS = ("messages", "prompt", "instruction", "question", "text", "turns")  # the first one present counts
_MARKER = re.compile(r"(?:\A|\n\r?\n)(Human|Assistant):")  # at the start of a paragraph only
_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}

Turns = tuple[Message, ...]


class Unusable(Exception):
    """A row without a conversation to answer. `reason`: empty_prompt, no_user_turn or bad_messages."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def column_of(row: Mapping[str, Any]) -> str | None:
    """The column that holds the prompt of this row, where the config names none."""
    return next((name for name in COLUMNS if row.get(name) is not None), None)


def conversation(row: Mapping[str, Any], field: str | None, transcript: bool = False) -> Turns:
    """The turns of a row up to its last user turn. Raises Unusable."""
    name = field or column_of(row)
    value = row.get(name) if name else None
    if transcript:
        turns = parse_transcript(value) if isinstance(value, str) else _not_text(value)
    elif isinstance(value, list):
        turns = _from_list(value)
    elif isinstance(value, str):
        extra = _instance_input(row) if field is None and name == "instruction" else ""
        turns = (Message(role="user", content=f"{value}\n\n{extra}" if extra.strip() else value),)
    else:
        turns = _not_text(value)
    return _up_to_user(turns)


def parse_transcript(text: str) -> Turns:
    """The turns of an hh-rlhf transcript ("\\n\\nHuman: …\\n\\nAssistant: …"); neighbours of one role are merged.

    A marker counts only at the start of a paragraph. Raises Unusable for text that is in no turn.
    """
    markers = list(_MARKER.finditer(text))
    starts = [marker.start() for marker in markers] + [len(text)]
    if text[: starts[0]].strip():
        where = "before the first turn" if markers else "without a turn"
        raise Unusable("bad_messages" if markers else "no_user_turn", f"there is text {where}")
    turns: list[Message] = []
    for marker, end in zip(markers, starts[1:], strict=True):
        role, content = _ROLES[marker[1]], text[marker.end() : end].strip(" \t\r\n")
        if turns and turns[-1].role == role:
            content = "\n\n".join(part for part in (turns.pop().content, content) if part)
        turns.append(Message(role=role, content=content))
    return tuple(turns)


def _from_list(value: Sequence[Any]) -> Turns:
    """Messages as they are; of a list of user turns (whose replies are missing) the first one only."""
    if value and isinstance(value[0], str):
        return (Message(role="user", content=value[0]),)
    return tuple(_messages(value))


def _messages(value: Sequence[Any]) -> Iterator[Message]:
    for number, item in enumerate(value, 1):
        role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
        if role not in get_args(Role):
            raise Unusable(
                "bad_messages", f"message {number}: role {role!r:.40} is not system, user or assistant"
            )
        if not isinstance(content, str):
            raise Unusable("bad_messages", f"message {number}: its content is not text")
        yield Message(role=role, content=content)


def _instance_input(row: Mapping[str, Any]) -> str:
    """The input of an instruction, where alpaca rows (`input`) or seed tasks (`instances`) keep it."""
    value = row.get("input")
    instances = row.get("instances")
    if value is None and isinstance(instances, list) and instances and isinstance(instances[0], dict):
        value = instances[0].get("input")
    return value if isinstance(value, str) else ""


def _not_text(value: Any) -> Turns:
    if value is None:
        raise Unusable("empty_prompt", "the row has no prompt")
    raise Unusable("bad_messages", f"the prompt is neither text nor messages, but {type(value).__name__}")


def _up_to_user(turns: Turns) -> Turns:
    last = next((i for i in reversed(range(len(turns))) if turns[i].role == "user"), None)
    if last is None:
        raise Unusable("no_user_turn" if turns else "empty_prompt", "nobody asks anything in this row")
    if not turns[last].content.strip():
        raise Unusable("empty_prompt", "the last user turn is blank")
    return turns[: last + 1]
