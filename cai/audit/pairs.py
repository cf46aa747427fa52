"""One row of a preference dataset, whoever made it → prompt, preferred and other completion as turns.

Read are TRL's formats (with the prompt as a column or inside both sides, plain text or messages; unpaired rows with a
label as well), hh-rlhf transcripts, pairs with a winner (`response_a`, `response_b`, `winner` and the like), OpenAI's
preference rows and ShareGPT turns (`from`, `value`). Nothing is mended: turns stay as they are, so that what is wrong
with them can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cai.sources.conversation import COLUMNS

SIDES = (
    ("chosen", "rejected"), ("preferred_output", "non_preferred_output"), ("preferred", "dispreferred"),
    ("chosen_response", "rejected_response"), ("response_j", "response_k"), ("better", "worse"),
    ("positive", "negative"), ("win", "lose"), ("accepted", "rejected"),
)  # fmt: skip
UNDECIDED = (("a", "b"), ("response_a", "response_b"), ("response_0", "response_1"), ("response_1", "response_2"),
             ("conversation_a", "conversation_b"), ("answer_0", "answer_1"), ("output_1", "output_2"))  # fmt: skip
WINNER = ("gold", "winner", "label", "labels", "preference", "better_response_id", "chosen_id", "preferred")
PROMPT = (*COLUMNS, "conversations", "input", "history", "context", "conversation")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
}
WANTED = "two replies of which one is better (as in chosen, rejected), or a completion with a label"
_SPEAKER = re.compile(r"(?:\A|\n\r?\n)(Human|Assistant):")


class Turn(NamedTuple):
    """One turn as it stands in the row; the role in today's words."""

    role: str
    content: str


class Preference(NamedTuple):
    """A row. `rejected` is None in an unpaired row, whose label is `good`. `p`: that chosen is better, where given."""

    id: str
    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...] | None
    good: bool
    p: float | None


def preference_of(row: Mapping[str, Any], id: str) -> Preference | None:
    """The preference in a row; None where there is none (a tie among them)."""
    prompt = next((turns for name in PROMPT if (turns := _turns(row.get(name), "user"))), ())
    p = row.get("p")
    p = float(p) if isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 else None
    sides = _sides(row)
    if sides is not None:
        chosen, rejected = (_turns(side, "assistant") for side in sides)
        if chosen is None or rejected is None:
            return None
        prompt, chosen, rejected = _apart(prompt, chosen, rejected)
        return Preference(id, prompt, chosen, rejected, True, p)
    completion, label = _turns(row.get("completion"), "assistant"), row.get("label")
    if completion is not None and isinstance(label, bool):
        return Preference(id, prompt, completion, None, label, None)
    return None


def text_of(turns: Sequence[Turn]) -> str:
    """All that the turns say."""
    return "\n\n".join(turn.content for turn in turns)


def _sides(row: Mapping[str, Any]) -> tuple[Any, Any] | None:
    for better, worse in SIDES:
        if row.get(better) is not None and row.get(worse) is not None:
            return row[better], row[worse]
    for a, b in UNDECIDED:
        if row.get(a) is None or row.get(b) is None:
            continue
        first = _first_wins(next((row[name] for name in WINNER if row.get(name) is not None), None), a, b)
        if first is not None:
            return (row[a], row[b]) if first else (row[b], row[a])
    return None


def _first_wins(winner: Any, a: str, b: str) -> bool | None:
    """Whether a winner's name means the first side; None for a tie and for what is not to be read."""
    word = str(winner).strip().lower()
    first, second = a.rsplit("_", 1)[-1], b.rsplit("_", 1)[-1]
    if word in (a, first, f"model_{first}"):
        return True
    return False if word in (b, second, f"model_{second}") else None


def _turns(value: Any, role: str) -> tuple[Turn, ...] | None:
    """A cell as turns; None where it is no text and no messages."""
    if isinstance(value, str):
        return _transcript(value) or (Turn(role, value),)
    if isinstance(value, dict):
        inner = value.get("messages")
        value = inner if isinstance(inner, list) else [value]
    if not isinstance(value, list | tuple):
        return None
    found: list[Turn] = []
    for item in value:
        if isinstance(item, str):
            found.append(Turn(role, item))
            continue
        if not isinstance(item, dict):
            return None
        name, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if not isinstance(name, str) or not isinstance(content, str):
            return None
        found.append(Turn(ROLES.get(name.lower(), name), content))
    return tuple(found)


def _transcript(text: str) -> tuple[Turn, ...]:
    """The turns of an hh-rlhf transcript, neighbours of one role apart; nothing for any other text."""
    speakers = list(_SPEAKER.finditer(text))
    if not speakers or text[: speakers[0].start()].strip() or speakers[0][1] != "Human":
        return ()
    ends = [*(speaker.start() for speaker in speakers[1:]), len(text)]
    return tuple(
        Turn("user" if speaker[1] == "Human" else "assistant", text[speaker.end() : end].strip(" \t\r\n"))
        for speaker, end in zip(speakers, ends, strict=True)
    )


def _apart(
    prompt: tuple[Turn, ...], chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]
) -> tuple[tuple[Turn, ...], tuple[Turn, ...], tuple[Turn, ...]]:
    """Prompt and completions, where both sides begin with the prompt."""
    if not (chosen and rejected) or (len(chosen) == 1 and chosen[0].role == "assistant"):
        return prompt, chosen, rejected
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    return chosen[:same] or prompt, chosen[same:], rejected[same:]
