"""Rows that come again: exact copies and opposite labels over all rows, near copies in a sample, eval prompts.

Digests of all rows lie on disk (`cai.store.seen`), so their number does not matter. Near copies: MinHash (Broder
1997) with locality-sensitive hashing by `datasketch`, every candidate then compared exactly. Eval prompts: the whole
prompt, or 13 words in a row, as in GPT-3's decontamination (Brown et al. 2020, arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from cai.audit.pairs import PROMPT, Preference, preference_of, text_of
from cai.audit.read import read
from cai.errors import ConfigError
from cai.sources.conversation import Unusable, conversation
from cai.sources.records import BadRecord
from cai.store.seen import Seen

SHINGLE = 3  # words
ALIKE = 0.8  # Jaccard similarity of shingles from which on rows are near copies
PERMUTATIONS = 128
CANDIDATES = 20  # of one row that are compared
GRAM = 13  # words
_WORD = re.compile(r"\w+")


class Repeats:
    """Exact repetition: memory is the disk's."""

    def __init__(self) -> None:
        self._seen = Seen()
        self.repeated = self.opposite = 0

    def add(self, row: Preference) -> tuple[bool, bool]:
        """Whether a row is an exact copy of an earlier one, and whether an earlier one has the opposite label."""
        prompt = [[turn.role, turn.content.strip()] for turn in row.prompt]
        a = text_of(row.chosen).strip()
        b = None if row.rejected is None else text_of(row.rejected).strip()
        if b is None:
            same, opposite = [prompt, a, row.good], [prompt, a, not row.good]
        else:
            same, opposite = [prompt, a, b], [prompt, b, a]
        contradicts = a != b and _digest(opposite) in self._seen
        copy = not self._seen.add(_digest(same))
        self.repeated += copy or contradicts
        self.opposite += contradicts and not copy
        return copy, contradicts

    def close(self) -> None:
        """Remove the digests."""
        self._seen.close()


def _digest(value: object) -> bytes:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).digest()


def near_copies(rows: Sequence[Preference]) -> Iterator[tuple[str, str, float]]:
    """Rows that nearly repeat an earlier one of these: (id, the earlier one's id, similarity).

    Only the first of a group is compared with, so many copies cost no more than few.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=ALIKE, num_perm=PERMUTATIONS)
    empty = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
    for number, row in enumerate(rows):
        shingles = _shingles(row)
        if not shingles:
            continue
        hashed = empty.copy()
        hashed.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in shingles])
        best, at = 0.0, -1
        for candidate in sorted(index.query(hashed))[:CANDIDATES]:
            others = _shingles(rows[candidate])
            alike = len(shingles & others) / len(shingles | others)
            if alike > best:
                best, at = alike, candidate
        if best >= ALIKE:
            if not _is_copy(row, rows[at]):
                yield row.id, rows[at].id, best
        else:
            index.insert(number, hashed)


def _is_copy(a: Preference, b: Preference) -> bool:
    return a[1:4] == b[1:4]


def _shingles(row: Preference) -> set[str]:
    words = _WORD.findall(
        f"{text_of(row.prompt)} {text_of(row.chosen)} {text_of(row.rejected or ())}".lower()
    )
    if len(words) < SHINGLE:
        return {" ".join(words)} if words else set()
    return {" ".join(words[start : start + SHINGLE]) for start in range(len(words) - SHINGLE + 1)}


class EvalPrompts:
    """What evaluation asks. Memory: eight bytes and Python's overhead for each of its 13 words in a row."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._whole: set[int] = set()
        self._grams: set[int] = set()
        self.prompts = 0
        for file in files:
            found = self.prompts
            for id, row in read(file):
                if isinstance(row, dict) and (text := _asked(row, id)):
                    self._add(text)
            if found == self.prompts:
                raise ConfigError(f"--eval {file}: no row has a prompt (one of {', '.join(PROMPT)})")

    def _add(self, text: str) -> None:
        words = _words(text)
        if words:
            self.prompts += 1
            self._whole.add(hash(tuple(words)))
            self._grams.update(_grams(words))

    def asked_in(self, row: Preference) -> tuple[Literal["whole", "part"], str] | None:
        """Whether a user turn of a row is an eval prompt, or shares 13 words in a row with one; and the turn."""
        for turn in row.prompt:
            if turn.role != "user" or not (words := _words(turn.content)):
                continue
            if hash(tuple(words)) in self._whole:
                return "whole", turn.content
            if any(gram in self._grams for gram in _grams(words)):
                return "part", turn.content
        return None


def _asked(row: dict[str, object] | BadRecord, id: str) -> str:
    """The last user turn of an eval row, which may be a prompt or a preference."""
    if isinstance(row, BadRecord):
        return ""
    pair = preference_of(row, id)
    if pair is not None and pair.prompt:
        return pair.prompt[-1].content
    try:
        return conversation(row, None)[-1].content
    except Unusable:
        return ""


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: Sequence[str]) -> Iterator[int]:
    return (hash(tuple(words[start : start + GRAM])) for start in range(len(words) - GRAM + 1))
