"""What can be wrong with the turns of one row by itself: empty ones, roles out of order, tokens of a chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cai.audit.pairs import Preference, Turn

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# control tokens of chat templates and tokenizers; a "<s>" or "</s>" may be HTML, see `template_token`
_TOKEN = re.compile(
    r"<\|[A-Za-z][\w ./-]{0,40}\|>|<\|[a-z_]{2,20}>|<[a-z_]{2,20}\|>|\[\|[a-z]{2,20}\|\]"
    r"|<｜[^｜\n]{1,40}｜>|\[/?INST\]|<<?/?SYS>>?|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|"
    r"TOOL_RESULTS|SYSTEM_PROMPT)\]|</?(?:start|end)_of_(?:turn|text|image|speech)>|<(?:bos|eos|pad|unk|BOS_TOKEN|EOS_TOKEN|"
    r"\|?endoftext\|?)>|\[(?:PAD|CLS|SEP|UNK|MASK)\]|<unused\d+>|<extra_id_\d+>|(?:\A|\n)### ?(?:Instruction|Response|"
    r"Human|Assistant|User|System):|(?:\A|\n)(?:Human|Assistant|USER|ASSISTANT): "
)
_S = re.compile(r"</?s>")


def empty_turn(row: Preference) -> str:
    """Which turn of a row says nothing; empty where all do. A row without a turn has an empty one as well."""
    for name, turns in _parts(row):
        if not turns and name != "prompt":
            return f"{name} has no turn"
        for number, turn in enumerate(turns, 1):
            if not turn.content.strip():
                return f"{name}: turn {number} ({turn.role}) is blank"
    return ""


def role_order(row: Preference) -> str:
    """What is wrong with the order of roles in a row; empty where nothing is."""
    for name, completion in _parts(row)[1:]:
        turns = (*row.prompt, *completion)
        for number, turn in enumerate(turns, 1):
            if turn.role not in ROLES:
                return f"{name}: turn {number} has an unknown role {turn.role!r:.40}"
            before = turns[number - 2].role if number > 1 else None
            if turn.role in ("system", "developer") and number > 1:
                return f"{name}: turn {number} is {turn.role}, after the beginning"
            if turn.role == before and turn.role in ("user", "assistant"):
                return f"{name}: turns {number - 1} and {number} are both {turn.role}"
            if turn.role == "assistant" and before in (None, "system", "developer") and row.prompt:
                return f"{name}: turn {number} is assistant, and nobody has asked"
        if completion and turns[-1].role != "assistant":
            return f"{name}: the last turn is {turns[-1].role}"
    return ""


def template_token(row: Preference) -> tuple[str, str, int] | None:
    """A control token inside a text: its name, the text and where it stands; None where there is none."""
    for _, turns in _parts(row):
        for turn in turns:
            found = _TOKEN.search(turn.content) or _lone_s(turn.content)
            if found is not None:
                return found[0].strip(), turn.content, found.start()
    return None


def _lone_s(text: str) -> re.Match[str] | None:
    """A "<s>" or "</s>" that is no pair of HTML's: one without the other, or one around the whole text."""
    found = list(_S.finditer(text))
    if not found:
        return None
    body = text.strip()
    if len(found) % 2 or body.startswith("<s>") or body.endswith("</s>"):
        return found[0]
    paired = all(found[n][0] == ("</s>" if n % 2 else "<s>") for n in range(len(found)))
    return None if paired else found[0]


def _parts(row: Preference) -> list[tuple[str, Sequence[Turn]]]:
    parts: list[tuple[str, Sequence[Turn]]] = [("prompt", row.prompt), ("chosen", row.chosen)]
    return parts if row.rejected is None else [*parts, ("rejected", row.rejected)]
