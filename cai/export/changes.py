"""What is different between two files of rows: which came, went, changed sides or moved, and how each group grew.

Rows are matched by id. Memory is bounded: what must be known of the old rows is a few digests each, in a temporary
SQLite database that spills to disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cai.rows import Demonstration, Message, Pair, Prompt, Row, Stepwise


class Print(NamedTuple):
    """What is compared of a row. `first`, `second`: digests of its two texts, chosen and rejected, or the text and
    nothing; `whole`: of the row; `groups`: what it is counted under, as (kind, name).
    """

    id: str
    first: bytes
    second: bytes
    whole: bytes
    p: float | None
    groups: tuple[tuple[str, str], ...]


class Count(Row):
    """Rows of one group before and after."""

    before: int
    after: int


class RowChanges(Row):
    """How one file became another.

    Of the rows that both have: `relabelled` have chosen and rejected swapped, `rewritten` other texts, `p_moved` the
    same label with another probability (by `p_moved_mean` on average and `p_moved_max` at most), `other` a change
    in another column. A row counts once. `groups`: rows by kind of group and its name.
    """

    before: int
    after: int
    added: int
    removed: int
    relabelled: int
    rewritten: int
    p_moved: int
    p_moved_mean: float | None
    p_moved_max: float | None
    other: int
    groups: dict[str, dict[str, Count]]

    @property
    def any(self) -> bool:
        """True where some row is different."""
        return any((self.added, self.removed, self.relabelled, self.rewritten, self.p_moved, self.other))


def pair_print(row: Pair) -> Print:
    """A preference pair; counted by principle and source."""
    groups = (*(("principle", name) for name in dict.fromkeys(row.principles)), ("source", row.source))
    first, second = _turns(row.prompt, row.chosen), _turns(row.prompt, row.rejected)
    return Print(row.id, first, second, _whole(row), row.p, groups)


def demonstration_print(row: Demonstration) -> Print:
    """A demonstration; counted by source."""
    text = _turns(row.prompt, row.completion)
    return Print(row.id, text, b"", _whole(row), None, (("source", row.source),))


def stepwise_print(row: Stepwise) -> Print:
    """Judged steps, another text where one of them is; counted by principle and by how many steps are bad."""
    bad = ("bad steps", str(row.labels.count(False)))
    groups = (*(("principle", name) for name in dict.fromkeys(row.principles)), bad)
    steps = tuple(Message(role="assistant", content=step) for step in row.completions)
    return Print(row.id, _turns(row.messages, steps), b"", _whole(row), None, groups)


def prompt_print(row: Prompt) -> Print:
    """A prompt; counted by source."""
    return Print(row.id, _turns(row.messages), b"", _whole(row), None, (("source", row.source),))


def compare(old: Iterable[Print], new: Iterable[Print]) -> RowChanges:
    """The changes from `old` to `new`, in one pass over each."""
    counts: Counter[str] = Counter()
    groups: dict[tuple[str, str], list[int]] = {}
    moved = largest = 0.0
    with contextlib.closing(sqlite3.connect("")) as known:  # a file of its own, gone when it is closed
        known.execute(
            "CREATE TABLE old (id BLOB PRIMARY KEY, a BLOB, b BLOB, whole BLOB, p REAL) WITHOUT ROWID"
        )
        known.executemany(
            "INSERT OR REPLACE INTO old VALUES (?, ?, ?, ?, ?)",
            (
                (_key(row), row.first, row.second, row.whole, row.p)
                for row in _counted(old, 0, groups, counts)
            ),
        )
        for row in _counted(new, 1, groups, counts):
            key = (_key(row),)
            was = known.execute("SELECT a, b, whole, p FROM old WHERE id = ?", key).fetchone()
            known.execute("DELETE FROM old WHERE id = ?", key)
            kind = _kind(row, was)
            counts[kind] += 1
            if kind == "p_moved":
                by = abs((row.p or 0) - (was[3] or 0))
                moved, largest = moved + by, max(largest, by)
        removed = known.execute("SELECT count(*) FROM old").fetchone()[0]
    return RowChanges(
        before=counts["rows 0"],
        after=counts["rows 1"],
        added=counts["added"],
        removed=removed,
        relabelled=counts["relabelled"],
        rewritten=counts["rewritten"],
        p_moved=counts["p_moved"],
        p_moved_mean=moved / counts["p_moved"] if counts["p_moved"] else None,
        p_moved_max=largest if counts["p_moved"] else None,
        other=counts["other"],
        groups=_grouped(groups),
    )


def _counted(
    rows: Iterable[Print], side: int, groups: dict[tuple[str, str], list[int]], counts: Counter[str]
) -> Iterable[Print]:
    for row in rows:
        counts[f"rows {side}"] += 1
        for group in row.groups:
            groups.setdefault(group, [0, 0])[side] += 1
        yield row


def _kind(row: Print, was: tuple[bytes, bytes, bytes, float | None] | None) -> str:
    if was is None:
        return "added"
    first, second, whole, p = was
    if (row.first, row.second) == (first, second):
        return "same" if row.whole == whole else "p_moved" if row.p != p else "other"
    return "relabelled" if (row.first, row.second) == (second, first) else "rewritten"


def _grouped(groups: dict[tuple[str, str], list[int]]) -> dict[str, dict[str, Count]]:
    found: dict[str, dict[str, Count]] = {}
    for (kind, name), (before, after) in sorted(groups.items()):
        found.setdefault(kind, {})[name] = Count(before=before, after=after)
    return found


def _key(row: Print) -> bytes:
    return _digest(row.id)


def _turns(*parts: Sequence[Message]) -> bytes:
    return _digest(json.dumps([[[turn.role, turn.content] for turn in part] for part in parts]))


def _whole(row: Row) -> bytes:
    return _digest(json.dumps(row.model_dump()))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
