"""One writer at a time: an exclusive lock that names its holder and that the kernel frees when it dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cai.errors import StoreError


def lock(path: Path, what: str) -> int:
    """Lock the file `path` for this process and return its descriptor; closing it unlocks.

    Raises StoreError naming `what` and the holder where another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        signature = {"pid": os.getpid(), "host": socket.gethostname()}
        os.pwrite(descriptor, json.dumps(signature).encode(), 0)
    except BlockingIOError as error:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise StoreError(
            f"{what} is in use by another run ({holder}); wait for it or stop it, then run again"
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock for the block."""
    descriptor = lock(path, what)
    try:
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # caught between taking the lock and signing it
        return "its holder has not signed the lock yet"
