"""What a run has spent over all its resumes: counters in one small file that all its processes map into memory.

Each process adds to a slot of its own and reads those of all, so that counting takes no lock and no system call, is
seen by the others at once, and outlives the death of the process by kill -9. A slot whose process is gone is taken
over, with what stands in it, by the next one. A power cut may lose what was counted since the last shard ended. In
a folder without the file, of an earlier release or with the file lost, counting begins at what the journals hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cai.errors import StoreError
from cai.journal_lines import completion_in, lines
from cai.models.base import Completion
from cai.store import guard
from cai.store.lock import lives

FILE = "spent.bin"
MAGIC = int.from_bytes(b"caispen1")
WORDS = 24  # of 8 bytes, a slot: process, host, and the counters; the first slot is MAGIC and slots in use
SLOTS = 256
SIZE = SLOTS * WORDS * 8
NANO = 1e-9
CALLS, REPLIES, TOKENS, NANOS, ESTIMATED, UNPRICED = range(2, 8)
FAILED = (
    "rate_limit",
    "transient",
    "malformed",
    "refused",
    "auth",
    "not_found",
    "bad_request",
    "context_length",
)
FIRST_FAILED, OTHERS = 8, WORDS - 1  # the last word: of any other class, as of a request that only probes


_open: dict[Path, tuple[Counters, int]] = {}


class Spent(NamedTuple):
    """Attempts sent, what came of them, tokens (of prompts and replies) and US dollars.

    `failed`: attempts by AttemptFailed's why.

    Of the replies, `estimated` came without their tokens, which are guessed from their length, and `unpriced` are not
    in `cost`, because no price is known for them.
    """

    calls: int = 0
    replies: int = 0
    tokens: int = 0
    cost: float = 0.0
    estimated: int = 0
    unpriced: int = 0
    failed: Mapping[str, int] = MappingProxyType({})

    @property
    def lost(self) -> int:
        """Attempts of which nobody knows what came: in flight when a process ended, or right now."""
        return max(0, self.calls - self.replies - sum(self.failed.values()))


class Counters:
    """The open counters of a run, for this process. Raises StoreError where the file is damaged or cannot be used.

    `held_tokens`, `held_nanos` (billionths of a US dollar): what requests of this process in open batches may use.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / FILE
        self._held: dict[int, tuple[int, int]] = {}
        self.held_tokens = self.held_nanos = 0
        with guard(self._path):
            root.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_whole(self._path, file):
                    _create(file, root)
                self._map = mmap.mmap(file, SIZE)
                self._words = memoryview(self._map).cast("q")
                self._at = self._claim() * WORDS
                self._mine = self._words[self._at : self._at + WORDS].tolist()
            finally:
                fcntl.flock(
                    file, fcntl.LOCK_UN
                )  # the map keeps a copy of the descriptor, and with it the lock
                os.close(file)

    def count(self, field: int, more: int = 1) -> None:
        """Add to a counter: CALLS, REPLIES …"""
        self._mine[field] = now = self._mine[field] + more
        self._words[self._at + field] = now

    def count_reply(self, tokens: int, nanos: int) -> None:
        """Add a reply: its tokens, and what it costs in billionths of a US dollar."""
        mine, words, at = self._mine, self._words, self._at
        mine[REPLIES] = words[at + REPLIES] = mine[REPLIES] + 1
        mine[TOKENS] = words[at + TOKENS] = mine[TOKENS] + tokens
        if nanos:
            mine[NANOS] = words[at + NANOS] = mine[NANOS] + nanos

    def count_failed(self, why: str) -> None:
        """Add an attempt without a reply."""
        self.count(FIRST_FAILED + FAILED.index(why) if why in FAILED else OTHERS)

    def totals(self) -> list[int]:
        """The counters of what a budget caps, over all processes, also those of before; by CALLS, TOKENS and NANOS."""
        words = self._words
        if words[1] == 2:  # nobody else has ever counted here
            return self._mine
        end = words[1] * WORDS
        calls, tokens, nanos = (sum(words[WORDS + field : end : WORDS]) for field in (CALLS, TOKENS, NANOS))
        return [0, 0, calls, 0, tokens, nanos]

    def hold(self, request: object, tokens: int, nanos: int) -> None:
        """Count what a request may use as used, once, until it is released; whoever holds it keeps the request."""
        if id(request) not in self._held:
            self._held[id(request)] = tokens, nanos
            self.held_tokens += tokens
            self.held_nanos += nanos

    def release(self, request: object) -> None:
        """Let go what is held for a request, if anything is."""
        tokens, nanos = self._held.pop(id(request), (0, 0))
        self.held_tokens -= tokens
        self.held_nanos -= nanos

    def close(self) -> None:
        """Make the counts durable, and leave the slot to the next process."""
        with guard(self._path):
            self._words[self._at] = 0
            self._map.flush()
            self._words.release()
            self._map.close()

    def _claim(self) -> int:
        """The number of a slot that no living process has."""
        words, host = self._words, zlib.crc32(socket.gethostname().encode())
        used = words[1]
        for slot in range(1, used):
            owner = words[slot * WORDS]
            here = words[slot * WORDS + 1] == host
            if not owner or (here and (owner == os.getpid() or not lives(owner))):
                break
        else:
            slot = min(used, SLOTS - 1)  # the last one is shared, should so many hosts ever die on one run
        words[slot * WORDS], words[slot * WORDS + 1] = os.getpid(), host
        words[1] = max(used, slot + 1)
        return slot


@contextlib.contextmanager
def shared(root: Path) -> Iterator[Counters]:
    """The counters of a run, opened by the first of this process to need them and closed by the last."""
    key = root.resolve()
    counters, users = _open.get(key) or (Counters(root), 0)
    _open[key] = counters, users + 1
    try:
        yield counters
    finally:
        _, users = _open.pop(key)
        if users > 1:
            _open[key] = counters, users - 1
        else:
            counters.close()


def read_spent(root: Path) -> Spent | None:
    """What a run has spent so far, also while it goes on; None where nothing counts it. Raises StoreError."""
    path = root / FILE
    if not path.is_file():
        return None
    with guard(path):
        file = os.open(path, os.O_RDONLY)
        try:
            if not _is_whole(path, file):
                return None
            words = memoryview(os.pread(file, SIZE, 0)).cast("q")
        finally:
            os.close(file)
    counts = [sum(words[WORDS + field : words[1] * WORDS : WORDS]) for field in range(WORDS)]
    failed = dict(zip(FAILED, counts[FIRST_FAILED:OTHERS], strict=False)) | {"other": counts[OTHERS]}
    return Spent(
        calls=counts[CALLS],
        replies=counts[REPLIES],
        tokens=counts[TOKENS],
        cost=counts[NANOS] * NANO,
        estimated=counts[ESTIMATED],
        unpriced=counts[UNPRICED],
        failed={why: count for why, count in failed.items() if count},
    )


def _is_whole(path: Path, file: int) -> bool:
    """False for a file that was only begun. Raises StoreError for one that is something else."""
    words = memoryview(os.pread(file, 16, 0).ljust(16, b"\0")).cast("q")
    if words[0] == 0:
        return False
    if words[0] != MAGIC or os.fstat(file).st_size != SIZE or not 1 <= words[1] <= SLOTS:
        raise StoreError(
            f"{path}: not what a run has spent; move the file away, and its replies are counted from the journals"
        )
    return True


def _create(file: int, root: Path) -> None:
    """Write the counters of what the journals hold; killed before the end, the file counts as begun only."""
    counts = [0] * WORDS
    for completion in _journalled(root):
        usage = completion.usage
        counts[CALLS] += 1
        counts[REPLIES] += 1
        counts[TOKENS] += usage.prompt_tokens + usage.completion_tokens
        counts[NANOS] += round((completion.cost or 0.0) / NANO)
        counts[UNPRICED] += completion.cost is None
    whole = memoryview(bytearray(SIZE)).cast("q")
    whole[1] = 2
    for field, count in enumerate(counts):
        whole[WORDS + field] = count
    os.pwrite(file, whole, 0)  # all of it: a page without a block on a full disk would end the process
    os.fsync(file)
    os.pwrite(file, MAGIC.to_bytes(8, sys.byteorder), 0)


def _journalled(root: Path) -> Iterator[Completion]:
    """Every reply that the journals of a run hold; one of another version is left out."""
    for path in (root / "journal").glob("*/*.jsonl"):
        with guard(path), path.open("rb") as file:
            for _, line, intact in lines(file):
                if intact:
                    with contextlib.suppress(ValueError):
                        yield completion_in(line)
