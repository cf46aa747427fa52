"""What a format can hold of a row. What it cannot is left out under a reason and counted; nothing is changed to fit.

Each check is given the prompt of a row and its replies, and returns the reason, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

from pydantic_core import PydanticSerializationError

from cai.imports.chains import transcript
from cai.models.turns import ANY_MODEL
from cai.rows import Demonstration, Message, Pair, Stepwise
from cai.sources.conversation import Turns, Unusable, parse_transcript

_BLANKS = " \t\r\n"


DatasetRow = Pair | Demonstration | Stepwise


class Talk(NamedTuple):
    """A row as the checks see it: the prompt, and each reply to it."""

    prompt: Turns
    replies: tuple[Turns, ...]

    @property
    def texts(self) -> list[str]:
        """Every text of the row."""
        return [turn.content for turn in chain(self.prompt, *self.replies)]


def talk_of(row: DatasetRow) -> Talk:
    """A row of a run's dataset as the checks see it; each step of a reply counts as a reply."""
    if isinstance(row, Pair):
        return Talk(row.prompt, (row.chosen, row.rejected))
    if isinstance(row, Demonstration):
        return Talk(row.prompt, (row.completion,))
    return Talk(row.messages, tuple((Message(role="assistant", content=step),) for step in row.completions))


def is_unicode(row: DatasetRow) -> bool:
    """False where half a character stands anywhere in the row: no UTF-8 file can hold it as it is."""
    try:
        row.__pydantic_serializer__.to_json(row)
    except PydanticSerializationError:
        return False
    return True


Check = Callable[[Talk], str | None]


def user_last(talk: Talk) -> str | None:
    """A prompt that ends in another turn than the user's, or is empty."""
    return None if talk.prompt and talk.prompt[-1].role == "user" else "prompt_not_of_user"


def one_turn(talk: Talk) -> str | None:
    """A reply of several turns, or one that is not the assistant's."""
    single = all(len(reply) == 1 and reply[0].role == "assistant" for reply in talk.replies)
    return None if single else "reply_not_one_turn"


def control_tokens(talk: Talk) -> str | None:
    """Text that the tokenizer of a chat model would read as the end of a turn or the start of another."""
    return "template_tokens" if any(ANY_MODEL.defused(text)[1] for text in talk.texts) else None


def in_turn(talk: Talk) -> str | None:
    """User and assistant do not alternate from the user on, behind at most one system turn."""
    spoken = talk.prompt[1:] if talk.prompt[:1] and talk.prompt[0].role == "system" else talk.prompt
    wanted = ("user", "assistant")
    return (
        None
        if all(turn.role == wanted[place % 2] for place, turn in enumerate(spoken))
        else "turns_do_not_alternate"
    )


def no_system(talk: Talk) -> str | None:
    """A system turn, for which the format has no place."""
    return "system_turn" if any(turn.role == "system" for turn in talk.prompt) else None


def speakable(talk: Talk) -> str | None:
    """A text that would read otherwise out of a transcript: with a speaker's mark in it, or blanks around it."""
    for reply in talk.replies:
        spoken = (*talk.prompt, *reply)
        try:
            same = parse_transcript(transcript(spoken)) == spoken
        except Unusable:
            same = False
        if not same:
            blanks = any(turn.content != turn.content.strip(_BLANKS) for turn in spoken)
            return "blanks_around_text" if blanks else "speaker_in_text"
    return None
