"""One row of a prompt file → the conversation in it, cut so that it ends in the user turn to answer.

Rows come in the shapes that published prompt sets and preference datasets have; nothing is guessed beyond those. A
row that holds no such conversation raises `Unusable` with the reason under which it is dropped. Text is kept as it
is, except for blanks around the turns of a transcript.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from cai.rows import Message, Role

COLUMNS = (
    "messages",
    "prompt",
    "instruction",
    "question",
    "text",
    "turns",
    "conversations",
)  # the first counts
BEFORE = "turns_before"  # of a table whose `prompt` is a text: the turns before it, as JSON
_MARKER = re.compile(r"(?:\A|\n\r?\n)(Human|Assistant):")  # at the start of a paragraph only
_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_NAMED: dict[str, Role] = {  # what `role`, and `from` in the ShareGPT style, may say
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip

Turns = tuple[Message, ...]


class Unusable(Exception):
    """A row without a conversation to answer. `reason`: empty_prompt, no_user_turn or bad_messages."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def column_of(row: Mapping[str, Any]) -> str | None:
    """The column that holds the prompt of this row, where the config names none: the first of `COLUMNS` present.

    Else `input`, where messages are in it, as in OpenAI's preference data, or `chosen` beside `rejected`, whole
    conversations that begin with the same turns.
    """
    found = next((name for name in COLUMNS if row.get(name) is not None), None)
    if found is None and isinstance(row.get("input"), dict) and "messages" in row["input"]:
        return "input"
    if found is None and row.get("chosen") is not None and row.get("rejected") is not None:
        return "chosen"
    return found


def conversation(row: Mapping[str, Any], field: str | None, transcript: bool = False) -> Turns:
    """The turns of a row up to its last user turn. Raises Unusable."""
    return up_to_user(turns_of(row, field, transcript))


def turns_of(row: Mapping[str, Any], field: str | None, transcript: bool = False) -> Turns:
    """All turns of a row's prompt, also those after the last user turn. Raises Unusable."""
    name = field or column_of(row)
    value = row.get(name) if name else None
    if transcript:
        return parse_transcript(value) if isinstance(value, str) else _not_text(value)
    if field is None and name == "chosen":
        return shared_turns(whole(value), whole(row["rejected"]))
    if field is None and name == "input":
        return messages_of(row["input"]["messages"])
    if isinstance(value, list):
        return _from_list(value)
    if isinstance(value, str):
        extra = _instance_input(row) if field is None and name == "instruction" else ""
        asked = Message(role="user", content=f"{value}\n\n{extra}" if extra.strip() else value)
        return (*_turns_before(row, name), asked)
    return _not_text(value)


def messages_of(value: Any) -> Turns:
    """A list of messages, `{role, content}` or ShareGPT's `{from, value}`, or a single one. Raises Unusable."""
    if isinstance(value, dict):
        value = [value]
    return tuple(_messages(value)) if isinstance(value, list) else _not_text(value)


def whole(value: Any) -> Turns:
    """A whole conversation: a list of messages, or a transcript. Raises Unusable."""
    return parse_transcript(value) if isinstance(value, str) else messages_of(value)


def shared_turns(one: Turns, other: Turns) -> Turns:
    """What two conversations have in common from their start, up to the last user turn in it. Raises Unusable."""
    shared = tuple(turn for turn, _ in takewhile(lambda two: two[0] == two[1], zip(one, other, strict=False)))
    last = _last_user(shared)
    if last is None:
        raise Unusable("bad_messages", "chosen and rejected do not begin with the same user turn")
    return shared[: last + 1]


def _turns_before(row: Mapping[str, Any], name: str | None) -> Turns:
    """What stands before the prompt of a table, see `BEFORE`."""
    value = row.get(BEFORE)
    if name != "prompt" or not value or not isinstance(value, str):
        return ()
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_messages", f"{BEFORE} is not JSON ({error})") from error
    return messages_of(found)


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
        said = item if isinstance(item, dict) else {}
        names = ("role", "content") if said.get("role") is not None else ("from", "value")
        role, content = (said.get(name) for name in names)
        if not isinstance(role, str) or role not in _NAMED:
            raise Unusable(
                "bad_messages", f"message {number}: role {role!r:.40} is not system, user or assistant"
            )
        if not isinstance(content, str):
            raise Unusable("bad_messages", f"message {number}: its content is not text")
        yield Message(role=_NAMED[role], content=content)


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


def up_to_user(turns: Turns) -> Turns:
    """The turns up to the last one of the user's, which has to say something. Raises Unusable."""
    last = _last_user(turns)
    if last is None:
        raise Unusable("no_user_turn" if turns else "empty_prompt", "nobody asks anything in this row")
    if not turns[last].content.strip():
        raise Unusable("empty_prompt", "the last user turn is blank")
    return turns[: last + 1]


def _last_user(turns: Turns) -> int | None:
    return next((place for place in reversed(range(len(turns))) if turns[place].role == "user"), None)
