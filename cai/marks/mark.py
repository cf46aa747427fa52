"""What people say about judged rows: marks, one JSON object a line in `RUN/marks.jsonl`, which only ever grows.

The last mark of an author on a row counts. A mark holds what the author takes for right (`gold`), and the digest
of the texts that they saw: where a later run gives the row other texts, the mark is stale and counts no more. The
file is locked while a line is added, so several viewers may write at once; a line that a crash tore is passed over.
"""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import StringConstraints

from cai.constitution.principle import content_digest
from cai.errors import ConfigError
from cai.given import open_given
from cai.judge.cases import Gold
from cai.rows import Judgment, Row
from cai.store import decode, encode, guard

MARKS = "marks.jsonl"
MOST_NOTE, MOST_AUTHOR = 5000, 100  # characters
Answer = Literal["A", "B", "tie", "unusable"]
Verb = Literal["accept", "flip", "reject"]
Time = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Key = tuple[str, str]  # stage and row


class Mark(Row):
    """One author's word on one judged row.

    `mark`: `accept`, the judge's answer is right; `flip`, the other one is; `reject`, the row is unusable, or its
    replies are equally good. `gold`: the better reply, None for an unusable row. `label`: what the judge had said
    by then, None where it was on no side. `pair`: see `pair_digest`. `blind`: the label was hidden.
    """

    stage: str
    row: str
    pair: str
    mark: Verb
    gold: Gold | None
    label: Literal["A", "B"] | None
    note: str = ""
    author: str
    at: Time
    blind: bool = False


class Marks(NamedTuple):
    """The marks that count, in the order in which they were made. `damaged`: lines that are no mark."""

    rows: tuple[Mark, ...]
    damaged: int


def now() -> str:
    """The time, in UTC, to the second."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def leaning(judgment: Judgment) -> Literal["A", "B"] | None:
    """The reply that the judge takes for the better one, also where it is too unsure for a label; None for none."""
    if judgment.p is None or judgment.p == 0.5:
        return None
    return "A" if judgment.p > 0.5 else "B"


def pair_digest(judgment: Judgment) -> str:
    """32 hex digits over what is compared: the prompt and both replies."""
    turns = [turn.model_dump() for turn in judgment.prompt.messages]
    return content_digest(turns, judgment.a.text, judgment.b.text)


def make_mark(
    stage: str, judgment: Judgment, answer: Answer, *, author: str, note: str = "", blind: bool = False
) -> Mark:
    """The mark by which an author answers which reply is better.

    Raises ConfigError for a name that is empty, and for a name or a note that is too long.
    """
    author, note = author.strip(), note.strip()
    if not 0 < len(author) <= MOST_AUTHOR:
        raise ConfigError(f"the author's name has {len(author)} characters; give 1 to {MOST_AUTHOR}")
    if len(note) > MOST_NOTE:
        raise ConfigError(
            f"the note has {len(note):,} characters; at most {MOST_NOTE:,} are kept, shorten it"
        )
    label = leaning(judgment)
    verb: Verb = "flip"
    if answer == label or (answer == "tie" and judgment.p == 0.5):
        verb = "accept"
    elif answer in ("tie", "unusable"):
        verb = "reject"
    return Mark(
        stage=stage,
        row=judgment.id,
        pair=pair_digest(judgment),
        mark=verb,
        gold=None if answer == "unusable" else answer,
        label=label,
        note=note,
        author=author,
        at=now(),
        blind=blind,
    )


def add_mark(run: Path, mark: Mark) -> None:
    """Append a mark; when this returns it is on disk. Raises StoreError, and then the file is as it was."""
    path = run / MARKS
    with guard(path):
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # of the open file: closing it unlocks
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            _write_whole(file, (b"\n" if torn else b"") + encode(mark) + b"\n", size)
            os.fsync(file)
        finally:
            os.close(file)


def _write_whole(file: int, line: bytes, size: int) -> None:
    """Write the whole line or, where the disk is full, nothing."""
    done = 0
    try:
        while done < len(line):
            done += os.write(file, line[done:])
    except OSError:
        os.ftruncate(file, size)
        raise


def read_marks(run: Path) -> Marks:
    """The marks of a run; none where nobody has marked anything. Raises StoreError where the file cannot be read."""
    path = run / MARKS
    with guard(path):
        if not path.exists():
            return Marks((), 0)
        found = path.stat()
        return _read(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, size: int, changed_ns: int) -> Marks:
    """The marks of a file as it is now; a page that shows many rows asks for them many times."""
    latest: dict[tuple[str, str, str], Mark] = {}
    damaged = 0
    with open_given(path) as file:
        for line in file:
            try:
                mark = decode(line, Mark)
            except ValueError:
                damaged += bool(line.strip())
                continue
            key = (mark.stage, mark.row, mark.author)
            latest.pop(key, None)  # so that it stands where it was made last
            latest[key] = mark
    return Marks(tuple(latest.values()), damaged)


class Said(NamedTuple):
    """What all authors together say about a row. `disputed`: they do not say the same, and `gold` is None."""

    gold: Gold | None
    disputed: bool
    marks: tuple[Mark, ...]


def said_of(marks: Iterable[Mark]) -> dict[Key, Said]:
    """What the authors say, by stage and row."""
    together: dict[Key, list[Mark]] = {}
    for mark in marks:
        together.setdefault((mark.stage, mark.row), []).append(mark)
    found: dict[Key, Said] = {}
    for key, own in together.items():
        golds = {mark.gold for mark in own}
        found[key] = Said(own[0].gold if len(golds) == 1 else None, len(golds) > 1, tuple(own))
    return found
