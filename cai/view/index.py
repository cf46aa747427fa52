"""The index of a run: which of its published files are in it, kept up to date while the run goes on.

A file is indexed once, into a Parquet file named after its size and time, so that what is added or published again is
all that is ever read. A thread of its own looks for news; large files are read in processes of their own, so that the
server's memory does not grow with them. DuckDB reads the Parquet files under a memory limit.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar, cast

from cai.errors import CaiError, StoreError
from cai.view.index_file import VERSION, Piece, build, pieces_of
from cai.view.index_rows import Table

FOLDER = ".view"
LOOK_S = 2.0  # between two looks for files that a run has published
SMALL_BYTES = 32 << 20  # so much is indexed in this process: starting another takes longer
MEMORY = "160MB"  # that DuckDB may hold; what needs more spills to disk
KEPT = 200  # counts and lists of choices
T = TypeVar("T")
Told = Callable[["Index"], None]


class Index:
    """The index of one run. `files` is what queries read, `version` counts its changes; `waiting`: files to come."""

    def __init__(self, run: Path, told: Told | None = None) -> None:
        import duckdb

        self.run = run
        self.folder, self._temporary = _folder(run)
        self.files: dict[Table, tuple[Piece, ...]] = {}
        self.version = 0
        self.waiting = 0
        self.bytes_waiting = self.bytes_all = 0
        self._failed: dict[Path, str] = {}
        self.ready = threading.Event()
        self._told = told
        self._kept: dict[tuple[int, object], object] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._spill = self.folder / f"tmp-{os.getpid()}-{secrets.token_hex(4)}"
        threads = min(4, os.cpu_count() or 1)
        settings: dict[str, str | bool | int | float | list[str]]
        settings = {"memory_limit": MEMORY, "threads": threads, "temp_directory": str(self._spill)}
        self._database = duckdb.connect(":memory:", config=settings)
        self._database.execute("SET parquet_metadata_cache=true; SET preserve_insertion_order=false")
        self._pieces = pieces_of(run, self.folder)
        _sweep(self.folder, {piece.target for piece in self._pieces})
        with self._lock:
            self._show()
        self._thread = threading.Thread(target=self._keep, name=f"index {run.name}", daemon=True)
        self._thread.start()

    def asked(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """The rows of a query, from any thread. Raises StoreError where an index file is damaged."""
        import duckdb

        try:
            with contextlib.closing(self._database.cursor()) as cursor:
                return cursor.execute(sql, list(values)).fetchall()
        except duckdb.Error as error:
            problem = str(error).splitlines()[0]
            fix = "remove the folder, and it is built again"
            raise StoreError(f"{self.folder}: the index cannot be read ({problem}); {fix}") from error

    def kept(self, key: object, make: Callable[[], T]) -> T:
        """What `make` gives, kept under `key` until files are added."""
        version = self.version
        try:
            return cast(T, self._kept[version, key])
        except KeyError:
            made = make()
        with self._lock:
            stale = [known for known in self._kept if known[0] != version]
            for known in stale or list(self._kept)[: max(0, len(self._kept) - KEPT)]:
                del self._kept[known]
            self._kept[version, key] = made
        return made

    def close(self) -> None:
        """Stop looking for news and let go of the database; a temporary index is removed."""
        self._closing.set()
        self._thread.join()
        self._database.close()
        shutil.rmtree(self._spill, ignore_errors=True)
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def error(self) -> str | None:
        """Why a file is not in the index and will not be; None where there is no such file."""
        return next(
            (self._failed[piece.target] for piece in self._pieces if piece.target in self._failed), None
        )

    def look(self) -> int:
        """See what the run has published, and which of it is indexed; gives the version of what queries read."""
        with self._lock:
            with contextlib.suppress(OSError):
                self._pieces = pieces_of(self.run, self.folder)
            self._show()
        return self.version

    def _keep(self) -> None:
        """Look for news until closed."""
        while True:
            if self._left:
                self._catch_up(self._left)
            self.ready.set()
            if self._closing.wait(LOOK_S):
                return
            self.look()

    def _show(self) -> None:
        """Make what is indexed what queries read."""
        done: dict[Table, list[Piece]] = {}
        left = []
        for piece in self._pieces:
            if piece.target.exists():
                done.setdefault(piece.table, []).append(piece)
            elif piece.target not in self._failed:
                left.append(piece)
        self._left = left
        self.waiting, self.bytes_waiting = len(left), sum(piece.size for piece in left)
        self.bytes_all = sum(piece.size for piece in self._pieces)
        found = {table: tuple(pieces) for table, pieces in done.items()}
        if found != self.files:
            self.files = found
            self.version += 1
        if self._told:
            self._told(self)

    def _catch_up(self, left: Sequence[Piece]) -> None:
        """Index what is not yet: a little of it here, much of it in other processes."""
        if sum(piece.size for piece in left) <= SMALL_BYTES:
            for piece in left:
                if self._closing.is_set():
                    return
                self._done(piece, lambda piece=piece: build(piece))  # type: ignore[misc]
        else:
            self._catch_up_aside(left)
        with self._lock:
            self._show()

    def _catch_up_aside(self, left: Sequence[Piece]) -> None:
        workers = max(1, min(8, os.cpu_count() or 1))
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_ignore_interrupts) as pool:
            futures = {pool.submit(build, piece): piece for piece in left}
            waiting = set(futures)
            try:
                while waiting and not self._closing.is_set():
                    ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in ended:
                        self._done(futures[future], future.result)
                    if ended:
                        self.look()
            finally:
                pool.shutdown(cancel_futures=True)

    def _done(self, piece: Piece, result: Callable[[], int]) -> None:
        """Take the result of a build; a file that is no file of rows is left out until it is published again."""
        try:
            result()
        except (CaiError, OSError) as error:
            if piece.source.exists():
                self._failed[piece.target] = str(error)
        except BrokenProcessPool:
            self._failed[piece.target] = f"{piece.source}: the process that indexed it died; is there memory?"


def _folder(run: Path) -> tuple[Path, bool]:
    """Where the index of a run lies, and whether it is a temporary folder, since the run's cannot be written to."""
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="cai-view-")), True
    if os.access(folder, os.W_OK | os.X_OK):
        return folder, False
    return Path(tempfile.mkdtemp(prefix="cai-view-")), True


def _sweep(folder: Path, kept: set[Path]) -> None:
    """Remove index files of files that are no more, and what killed builds left."""
    now = time.time()
    for path in folder.glob("v*/*/*"):
        with contextlib.suppress(OSError):
            young = path.name.startswith(".") and now - path.stat().st_mtime < 3600  # another viewer's work
            if path not in kept and not young:
                path.unlink()
    for other in folder.glob("v*"):
        if other.name != f"v{VERSION}":
            shutil.rmtree(other, ignore_errors=True)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
