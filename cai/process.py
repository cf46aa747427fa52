"""What a run asks of the process that it works in: rare collections of garbage, threads, files enough, an end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from cai.errors import ConfigError

T = TypeVar("T")
GC_ALLOCATIONS = (
    50_000  # objects between looks for cycles; at Python's 700 a quarter of all CPU time goes there
)
SPARE_FILES = 256  # for sockets, journals, the interpreter and whatever else is open beside

_collecting_rarely = 0  # blocks that run now …
_thresholds = gc.get_threshold()  # … and what the collector was set to before the first of them


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let the garbage collector look for cycles seldom: rows in flight are many objects, and none is a cycle.

    Blocks that run at once may end in any order, so the last one puts the old thresholds back.
    """
    global _collecting_rarely, _thresholds
    if not _collecting_rarely:
        _thresholds = gc.get_threshold()
        if _thresholds[0]:  # 0: somebody switched it off
            gc.set_threshold(max(GC_ALLOCATIONS, _thresholds[0]), *_thresholds[1:])
    _collecting_rarely += 1
    try:
        yield
    finally:
        _collecting_rarely -= 1
        if not _collecting_rarely:
            gc.set_threshold(*_thresholds)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While modules are loaded, no garbage is collected: their objects stay, and no later look goes through them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, done in a thread so that the event loop goes on; who is cancelled waits for its end.

    What `work` then raises is nobody's any more: whatever cancelled has its own reason.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.wait([running])
        raise


def end_with_parent() -> None:
    """From now on end this process's whole group when standard input closes, however its parent ended."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def allow_open_files(count: int, what: str) -> None:
    """Raise this process's own limit so that `count` more files can be open at once.

    Raises ConfigError, with the fix, where the system does not let it; `what` begins that line.
    """
    needed = count + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{what} needs {needed} open files, but this system allows {hard}; raise its limit (ulimit -Hn {needed}), "
            "or take fewer of them"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
