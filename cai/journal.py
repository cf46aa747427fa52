"""Every reply of a model, kept under the digest of its request the moment it arrives.

An append-only JSONL file per (stage, shard): one `write` of one whole line per finished call, so kill -9
loses only calls still in flight; a background thread fsyncs about once a second, so a power cut loses
about a second. Lines carry a checksum: a torn last line is cut off on opening, a damaged one in the middle
is skipped and counted, and either is simply asked again. In memory there is only an index from key to
place; replies are read back from the file.

The journal never retries, never interprets a reply, and never serves two runs at once: it is locked.
"""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from cai.errors import StoreError
from cai.lock import lock
from cai.models.base import Completion
from cai.store import decode, encode, explain, guard, sync_folder, unusable

SYNC_INTERVAL_S = 1.0
# A line is {"crc":"<8 hex>","key":"<32 hex>","completion":{…}}\n; the CRC-32 covers what follows its field.
_CHECKED = 18
_KEY = slice(25, 57)
_BODY = slice(72, -2)
_LENGTH_BITS = 32  # an index entry is offset << 32 | length: one small integer instead of a tuple


class Journal:
    """The open journal of one shard; a context manager.

    `read_only`: replies can be looked up, also while a run writes them; the file is not touched, and need not be
    there. `corrupt_lines`: damaged lines that were skipped on opening. Raises StoreError where the file is in use
    by another process, or cannot be read or written.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path if path.exists() or not read_only else Path(os.devnull)
        self.corrupt_lines = 0
        self._index: dict[bytes, int] = {}
        self._used: dict[bytes, int] = {}
        self._dirty = False
        self._sync_error: OSError | None = None
        self._closing = threading.Event()
        self._read_only = read_only
        if read_only:
            with guard(path):
                self._file = os.open(self.path, os.O_RDONLY)
                self._size = self._load()
            return
        with contextlib.ExitStack() as undo, guard(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock(path.with_suffix(".lock"), f"{path}: this shard")
            undo.callback(os.close, self._lock)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            undo.callback(os.close, self._file)
            self._size = self._load()
            sync_folder(path.parent)
            undo.pop_all()
        self._syncer = threading.Thread(target=self._sync_loop, name=f"fsync {path.name}", daemon=True)
        self._syncer.start()

    def __len__(self) -> int:
        """Replies held."""
        return len(self._index) + len(self._used)

    @property
    def unused(self) -> int:
        """Replies of earlier runs that nobody asked for since opening: stale ones, once a run is through."""
        return len(self._index)

    def used(self, key: str) -> bool:
        """True where the reply under `key` was read or stored since opening."""
        return bytes.fromhex(key) in self._used

    def get(self, key: str) -> Completion | None:
        """The reply stored under `key`, or None. Raises StoreError where the file changed under our feet."""
        name = bytes.fromhex(key)
        entry = self._used.get(name)
        if entry is None:
            entry = self._index.pop(name, None)
            if entry is None:
                return None
            self._used[name] = entry
        offset, length = entry >> _LENGTH_BITS, entry & ((1 << _LENGTH_BITS) - 1)
        try:
            line = os.pread(self._file, length, offset)
        except OSError as error:
            raise unusable(self.path, error) from error
        try:
            if not _intact(line):
                raise ValueError("the checksum does not match")
            return decode(line[_BODY], Completion)
        except ValueError as error:
            raise StoreError(
                f"{self.path}: the reply at byte {offset} cannot be read ({explain(error)}); run again: "
                "damaged lines are asked again, but a file of another version has to be moved away"
            ) from error

    def put(self, key: str, completion: Completion) -> None:
        """Store a reply; when this returns, it survives the death of this process."""
        if self._closing.is_set() or self._read_only:
            raise StoreError(f"{self.path}: a reply arrived, but the journal is closed or only read")
        self._raise_sync_error()
        rest = b'"key":"%s","completion":%s}' % (key.encode(), encode(completion))
        line = b'{"crc":"%08x",%s\n' % (zlib.crc32(rest), rest)
        try:
            self._append(line)
        except OSError as error:
            raise unusable(self.path, error) from error
        name = bytes.fromhex(key)
        self._index.pop(name, None)
        self._used[name] = self._size << _LENGTH_BITS | len(line)
        self._size += len(line)
        self._dirty = True

    def close(self) -> None:
        """Make everything durable and release the lock. Closing twice is harmless."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._read_only:
            os.close(self._file)
            return
        self._syncer.join()
        try:
            self._raise_sync_error()
            with guard(self.path):
                os.fsync(self._file)
        finally:
            os.close(self._file)
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        """Write the whole line or, where the disk is full, nothing."""
        done = 0
        try:
            while done < len(line):  # a short write means that the next one says why
                done += os.write(self._file, line[done:] if done else line)
        except OSError:
            if done:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
            raise

    def _load(self) -> int:
        """Index every intact line, cut off a torn last one, and return the size of the file in bytes."""
        offset = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    if not self._read_only:
                        os.ftruncate(self._file, offset)
                    break
                if _intact(line):
                    self._index[bytes.fromhex(line[_KEY].decode())] = offset << _LENGTH_BITS | len(line)
                else:
                    self.corrupt_lines += 1
                offset += len(line)
        return offset

    def _sync_loop(self) -> None:
        while not self._closing.wait(SYNC_INTERVAL_S):
            if self._dirty:
                self._dirty = False
                try:
                    os.fsync(self._file)
                except OSError as error:
                    self._sync_error = error
                    return

    def _raise_sync_error(self) -> None:
        if self._sync_error is not None:
            raise StoreError(
                f"{self.path}: fsync failed: {self._sync_error}; replies of the last seconds may be lost, "
                "check the disk and run again"
            ) from self._sync_error


def look_up(path: Path, keys: Collection[str]) -> dict[str, Completion]:
    """The replies under some keys, found in one pass without an index, also while a run writes the file.

    A key that is not there, or on a damaged line, is left out. Raises StoreError where the file cannot be read.
    """
    wanted = {key.encode() for key in keys}
    found: dict[str, Completion] = {}
    with guard(path), path.open("rb") as file:
        for line in file:
            if line[_KEY] in wanted and _intact(line):
                key = line[_KEY].decode()
                try:
                    found[key] = decode(line[_BODY], Completion)
                except ValueError as error:
                    raise StoreError(
                        f"{path}: the reply {key} is of another version ({explain(error)})"
                    ) from error
                if len(found) == len(wanted):
                    break
    return found


def _intact(line: bytes) -> bool:
    head = b'{"crc":"%08x",' % zlib.crc32(memoryview(line)[_CHECKED:-1])
    return line[:_CHECKED] == head and line.endswith(b"\n")
