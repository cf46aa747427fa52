"""Preference datasets in the formats that `cai export` writes and others publish, as labelled pairs.

The columns tell the format: `chosen` and `rejected`, or OpenAI's `preferred_output` and `non_preferred_output`; the
prompt is in a column of its own (`cai.sources.conversation.COLUMNS`, `input`) or is what both replies begin with.
Where more than one column could be the prompt, the reading stops and names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cai.config import SourceConfig
from cai.errors import ConfigError
from cai.rows import LabelledPair, Message
from cai.sources import row_tags
from cai.sources.conversation import COLUMNS, Turns, Unusable, messages_of, shared_turns, turns_of, whole
from cai.sources.records import BadRecord, check_source, read_records

REPLIES = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))


class PublishedPair(NamedTuple):
    """A prompt that ends with the user's turn, and what follows it: the better reply, the worse one."""

    prompt: Turns
    chosen: Turns
    rejected: Turns


def is_published(path: Path) -> bool:
    """Whether a file holds pairs by these columns, or is a table, packed or not; else it is JSONL with `a` and `b`."""
    if path.suffix.lower() in (".csv", ".parquet", ".gz"):
        return True
    try:
        first = next((row for _, row in read_records(SourceConfig(path=str(path)))), None)
    except ConfigError:
        return False
    return isinstance(first, dict) and "a" not in first and any(map(set(first).issuperset, REPLIES))


def read_published(path: Path) -> Iterator[tuple[int, LabelledPair]]:
    """The pairs of a file with their line or row numbers; a digest decides which side the better reply is on.

    Raises ConfigError, `file:number: what`, for a row that is no pair of single replies.
    """
    source = SourceConfig(path=str(path))
    try:
        check_source(source)
        for number, row in read_records(source):
            yield number, _labelled(row, number, f"{path}:{number}")
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("prompts: ")) from error


def pair_of(row: Mapping[str, Any]) -> PublishedPair:
    """The prompt and the replies of a row. Raises Unusable."""
    better, worse = next(
        (two for two in REPLIES if all(row.get(name) is not None for name in two)), (None, None)
    )
    if better is None or worse is None:
        names = " or ".join(f"{one} and {other}" for one, other in REPLIES)
        raise Unusable("bad_messages", f"no two replies; a pair has {names}")
    prompts = [name for name in COLUMNS if row.get(name) is not None]
    prompts += ["input"] if isinstance(row.get("input"), dict) else []
    if not prompts or _is_whole(row[better]):
        return _split(whole(row[better]), whole(row[worse]))
    if len(prompts) > 1:
        raise Unusable(
            "bad_messages", f"{' and '.join(map(repr, prompts))} could all be the prompt; leave one of them"
        )
    asked = turns_of(row, None)
    if not asked or asked[-1].role != "user":
        raise Unusable("no_user_turn", f"{prompts[0]!r} does not end with a user turn")
    return PublishedPair(asked, _reply(row[better]), _reply(row[worse]))


def _is_whole(value: Any) -> bool:
    """Whether a reply brings its prompt along: messages that begin with another turn than the assistant's."""
    return isinstance(value, list) and bool(value) and messages_of(value)[0].role != "assistant"


def _split(chosen: Turns, rejected: Turns) -> PublishedPair:
    asked = shared_turns(chosen, rejected)
    return PublishedPair(asked, chosen[len(asked) :], rejected[len(asked) :])


def _reply(value: Any) -> Turns:
    return (Message(role="assistant", content=value),) if isinstance(value, str) else messages_of(value)


def _labelled(row: dict[str, Any] | BadRecord, number: int, where: str) -> LabelledPair:
    if isinstance(row, BadRecord):
        raise ConfigError(f"{where}: {row.detail}; mend it or take it out")
    try:
        found = pair_of(row)
    except Unusable as error:
        raise ConfigError(f"{where}: {error.detail or error.reason}") from error
    for name, reply in (("better", found.chosen), ("worse", found.rejected)):
        if len(reply) != 1 or reply[0].role != "assistant":
            raise ConfigError(
                f"{where}: the {name} reply has {len(reply)} turns; a judge compares single replies"
            )
    own = row.get("id")
    name = str(own) if isinstance(own, str | int) and own != "" else str(number)
    replies = found.chosen[0].content, found.rejected[0].content
    first = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0] % 2 == 0
    a, b = replies if first else replies[::-1]
    return LabelledPair(
        id=name, prompt=found.prompt, a=a, b=b, gold="A" if first else "B", tags=tuple(row_tags(row))
    )
