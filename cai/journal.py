"""Every reply of a model, kept under the digest of its request the moment it arrives.

An append-only JSONL file per (stage, shard): one `write` of one whole line per finished call, so kill -9
loses only calls still in flight; a background thread fsyncs about once a second, so a power cut loses
about a second. Lines carry a checksum: a torn last line is cut off on opening, a damaged one in the middle
is skipped and counted, and either is simply asked again. In memory there is only an index from key to
place; replies are read back from the file.

A file that is deleted under an open journal still takes replies, which would be gone with it. The background thread
notices, the next reply stops the shard, and closing writes the file again where nothing has taken its place.

The journal never retries, never interprets a reply, and never serves two runs at once: it is locked.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from cai.errors import StoreError
from cai.journal_lines import completion_in, key_in, lines, written
from cai.models.base import Completion
from cai.store import RowsWriter, explain, guard, sync_folder, unusable
from cai.store.lock import lock, unlock

SYNC_INTERVAL_S = 1.0
CHUNK = 1 << 20
_LENGTH_BITS = 32  # an index entry is offset << 32 | length: one small integer instead of a tuple


class Journal:
    """The open journal of one shard; a context manager.

    `read_only`: replies can be looked up, also while a run writes them; the file is not touched, and need not be
    there. `corrupt_lines`: damaged lines that were skipped on opening; `added`: replies stored since; `repeated`: lines
    with the key of another one. Raises StoreError where the file is in use
    by another process, or cannot be read or written.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path if path.exists() or not read_only else Path(os.devnull)
        self.corrupt_lines = 0
        self.added = self.repeated = self._whole = 0
        self._index: dict[bytes, int] = {}
        self._used: dict[bytes, int] = {}
        self._dirty = False
        self._trouble: StoreError | None = None
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
            undo.callback(unlock, self._lock)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
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
    def replies(self) -> int:
        """Intact lines: those found on opening, and those `added` since."""
        return self._whole + self.added

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
        return self._read(entry)[0]

    def _read(self, entry: int) -> tuple[Completion, bytes]:
        offset, length = entry >> _LENGTH_BITS, entry & ((1 << _LENGTH_BITS) - 1)
        try:
            line = os.pread(self._file, length, offset)
        except OSError as error:
            raise unusable(self.path, error) from error
        try:
            return completion_in(line), line
        except ValueError as error:
            raise StoreError(
                f"{self.path}: the reply at byte {offset} cannot be read ({explain(error)}); run again: "
                "damaged lines are asked again, but a file of another version has to be moved away"
            ) from error

    def lines(self, *, unused: bool) -> Iterator[bytes]:
        """The line of each reply that was asked for since opening, without its newline, in their order in the file.

        `unused`: also of those that nobody asked for. Raises StoreError where one has changed meanwhile.
        """
        for entry in sorted([*self._used.values(), *(self._index.values() if unused else ())]):
            yield self._read(entry)[1]

    def put(self, key: str, completion: Completion) -> None:
        """Store a reply; when this returns, it survives the death of this process."""
        if self._closing.is_set() or self._read_only:
            raise StoreError(f"{self.path}: a reply arrived, but the journal is closed or only read")
        line = written(key, completion)
        try:
            self._append(line)
        except OSError as error:
            raise unusable(self.path, error) from error
        self.added += 1
        name = bytes.fromhex(key)
        if self._index.pop(name, None) is not None or name in self._used:
            self.repeated += 1
        self._used[name] = self._size << _LENGTH_BITS | len(line) - 1
        self._size += len(line)
        self._dirty = True
        if self._trouble is not None:  # after the reply is kept, which is paid for
            raise self._trouble

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
            with guard(self.path):
                self._look()
                if os.fstat(self._file).st_nlink == 0:
                    self._write_again()
                if self._trouble is not None:
                    raise self._trouble
                os.fsync(self._file)
        finally:
            os.close(self._file)
            unlock(self._lock)

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
        end, torn = 0, 0  # of the last intact line, and where the damage after it begins
        with self.path.open("rb") as file:
            for offset, line, intact in lines(file):
                if intact:
                    self._whole += 1
                    self._index[key_in(line)] = offset << _LENGTH_BITS | len(line)
                    end = offset + len(line)
                else:
                    self.corrupt_lines += 1
                    torn = offset
            size = file.tell()
        self.repeated = self._whole - len(self._index)
        if self._ends_whole(size):
            return size
        if end <= torn:  # a reply that was on its way when its writer died is no damage
            self.corrupt_lines -= 1
            size = torn
        rest = b"" if self._ends_whole(size) else b"\n"
        if not self._read_only:
            os.ftruncate(self._file, size)
            os.write(self._file, rest)
        return size + len(rest)

    def _ends_whole(self, size: int) -> bool:
        return not size or os.pread(self._file, 1, size - 1) == b"\n"

    def _sync_loop(self) -> None:
        while not self._closing.wait(SYNC_INTERVAL_S):
            try:
                self._look()
                if self._dirty:
                    self._dirty = False
                    os.fsync(self._file)
            except OSError as error:
                self._trouble = StoreError(
                    f"{self.path}: fsync failed: {error}; replies of the last seconds may be lost, "
                    "check the disk and run again"
                )
            if self._trouble is not None:
                return

    def _look(self) -> None:
        """Note where the file is no longer the one under its name."""
        ours = os.fstat(self._file)
        try:
            found = self.path.stat()
        except FileNotFoundError:
            found = None
        if self._trouble is None and (found is None or not os.path.samestat(ours, found)):
            what = "moved" if ours.st_nlink else "deleted"
            self._trouble = StoreError(
                f"{self.path}: was {what} while this run wrote to it, so the run has stopped; "
                "leave the run's folder alone until it has ended, and run again"
            )

    def _write_again(self) -> None:
        """Put what is in a deleted file back under its name, unless another has that by now."""
        if not self._size or self.path.exists():
            return
        writer = RowsWriter(self.path)
        try:
            for offset in range(0, self._size, CHUNK):
                writer.write_bytes(os.pread(self._file, min(CHUNK, self._size - offset), offset))
            writer.publish()
        finally:
            writer.discard()
