"""Prompts of a run: every source read once, in order, each row out as a `Prompt` or as a `Drop` with its reason.

Ids decide everything later (draws, seeds, shards), so they are stable: a row's own id, or a digest of its
conversation. Own ids of every source but the first stand behind that source's name, so that a source added at the
end changes no id that was there. Of a row that is done, two 16-byte digests are kept, on disk. A source of which
nothing can be used is a ConfigError, raised before anything is paid for.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.config import SourceConfig
from cai.errors import ConfigError
from cai.rows import Drop, Prompt
from cai.sources.conversation import COLUMNS, Turns, Unusable, column_of, conversation
from cai.sources.records import SUFFIXES, BadRecord, check_source, origin, read_records
from cai.store.seen import Seen

STAGE = "prompts"
ID_COLUMNS = ("id", "prompt_id", "question_id")
LONGEST_ID = 96  # characters; a longer one is cut and ends in a digest of the whole
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]|^\.")  # "/" and "~" join ids into lineages, "%" escapes


def read_prompts(sources: Sequence[SourceConfig]) -> Iterator[Prompt | Drop]:
    """Stream all sources. Reasons to drop: bad_json, bad_csv, bad_text, bad_messages, empty_prompt,
    no_user_turn, tag_filtered, duplicate. Raises ConfigError; for a missing file, before the first row.
    """
    for source in sources:
        check_source(source)
    return _stream(sources)


def shard_of(prompt_id: str, shards: int) -> int:
    """The shard, from 0, that an id belongs to, whatever else there is."""
    return int.from_bytes(_hash(prompt_id.encode("utf-8", "surrogatepass"))[:8], "big") % shards


def _stream(sources: Sequence[SourceConfig]) -> Iterator[Prompt | Drop]:
    names = _names(sources)
    with contextlib.closing(Seen()) as seen, contextlib.closing(Seen()) as ids:
        for number, (source, name) in enumerate(zip(sources, names, strict=True)):
            yield from _Reader(source, name, name if number else "", seen, ids).rows()


class _Reader:
    """One source on its way. `seen` and `ids` are shared: digests of all conversations and ids so far."""

    def __init__(self, source: SourceConfig, name: str, prefix: str, seen: Seen, ids: Seen) -> None:
        self._source, self._name, self._prefix = source, name, prefix
        self._seen, self._ids = seen, ids
        self._kept = 0
        self._drops: Counter[str] = Counter()

    def rows(self) -> Iterator[Prompt | Drop]:
        """Every row, until `limit` prompts are kept."""
        checked = False
        for number, record in read_records(self._source):
            if not checked and isinstance(record, dict):
                self._check_columns(record)
                checked = True
            result = self._result(number, record)
            if isinstance(result, Drop):
                self._drops[result.reason] += 1
            else:
                self._kept += 1
            yield result
            if self._kept == self._source.limit:
                return
        if not self._kept and not self._drops["duplicate"]:
            raise ConfigError(f"prompts: no usable prompt in {origin(self._source)}: {self._why_nothing()}")

    def _result(self, number: int, record: dict[str, Any] | BadRecord) -> Prompt | Drop:
        fallback = f"{self._name}-{number}"
        if isinstance(record, BadRecord):
            return Drop(id=fallback, stage=STAGE, reason=record.reason, detail=record.detail)
        own = _own_id(record, self._prefix)
        where = f"{self._name}, row {number}"

        def drop(reason: str, detail: str) -> Drop:
            return Drop(id=own or fallback, stage=STAGE, reason=reason, detail=f"{where}: {detail}")

        try:
            turns = conversation(record, self._source.field, self._source.transcript)
        except Unusable as error:
            return drop(error.reason, error.detail)
        tags = tuple(dict.fromkeys((*self._source.tags, *row_tags(record))))
        if self._source.only_tags and not set(tags) & set(self._source.only_tags):
            return drop("tag_filtered", f"its tags are {', '.join(tags) or 'none'}")
        digest = _digest(turns)
        if not self._seen.add(digest):
            return drop("duplicate", "the same conversation came before")
        row_id = self._unique(own or digest.hex()[:24], digest)
        return Prompt(id=row_id, messages=turns, tags=tags, source=self._name)

    def _unique(self, row_id: str, digest: bytes) -> str:
        """`row_id`, or with a digest of the conversation behind it where another prompt has that id."""
        unique, salt = row_id, digest
        while not self._ids.add(_hash(unique.encode())):
            unique, salt = f"{row_id}.{salt.hex()[:12]}", _hash(salt)
        return unique

    def _check_columns(self, row: Mapping[str, Any]) -> None:
        """Raise ConfigError where the first row lacks the prompt's column."""
        field, columns = self._source.field, ", ".join(row) or "none"
        where = f"prompts: {origin(self._source)}"
        if self._source.transcript and field is None:
            raise ConfigError(
                f"{where}: 'transcript' needs 'field', the column with the text; columns: {columns}"
            )
        if field is not None and field not in row:
            near = difflib.get_close_matches(field, list(row), n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{where}: there is no column {field!r}; {hint}columns: {columns}")
        if field is None and column_of(row) is None and not set(COLUMNS) & set(row):
            raise ConfigError(f"{where}: no column is a prompt; set 'field' to one of: {columns}")

    def _why_nothing(self) -> str:
        if not self._drops:
            return "it holds no rows; give another file"
        counts = ", ".join(f"{reason} {count}" for reason, count in self._drops.most_common())
        only = " or only_tags" if self._drops["tag_filtered"] else ""
        return f"dropped as {counts}; check field, format{only}"


def _names(sources: Sequence[SourceConfig]) -> list[str]:
    """A short name for each source, from its file or dataset; a number tells equal ones apart."""
    names: list[str] = []
    for source in sources:
        name = Path(origin(source)).name
        for suffix in (".gz", *SUFFIXES):
            name = name.removesuffix(suffix)
        name = unique = _safe(name) or "prompts"
        for number in itertools.count(2):
            if unique not in names:
                break
            unique = f"{name}-{number}"
        names.append(unique)
    return names


def _own_id(row: Mapping[str, Any], prefix: str) -> str:
    """The row's own id made safe, behind its source's name; empty where it has none."""
    value = next((row[name] for name in ID_COLUMNS if row.get(name) is not None), None)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return ""
    return f"{prefix}.{_safe(str(value))}" if prefix else _safe(str(value))


def _safe(text: str) -> str:
    """Letters, digits, dots, dashes and underscores; all else as %XX of its UTF-8, so that texts stay distinct."""

    def escape(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))

    safe = _UNSAFE.sub(escape, text)
    return safe if len(safe) <= LONGEST_ID else f"{safe[:60]}.{_hash(safe.encode()).hex()[:24]}"


def row_tags(row: Mapping[str, Any]) -> list[str]:
    """A row's own tags: a list, or one text with commas."""
    value = row.get("tags")
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return [part.strip() for part in parts if isinstance(part, str) and part.strip()]


def _digest(turns: Turns) -> bytes:
    return _hash(json.dumps([[turn.role, turn.content] for turn in turns]).encode())


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
