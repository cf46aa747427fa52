"""One writer at a time: an exclusive lock that names its holder and that the kernel frees when it dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cai.errors import StoreError


class Holder(NamedTuple):
    """The process that has a lock."""

    pid: int
    host: str


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


def holder(path: Path) -> Holder | None:
    """Who has the lock of the file `path`; None where nobody has it, or it has not been signed yet.

    A lock whose signer is gone from this machine is not tried: trying takes it for a moment, from whoever starts.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        signed = _signed(descriptor)
        if signed is None or (signed.host == socket.gethostname() and not _lives(signed.pid)):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return signed
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _signed(descriptor: int) -> Holder | None:
    try:
        signature = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(int(signature["pid"]), str(signature["host"]))
    except (ValueError, KeyError, TypeError):
        return None


def _holder(descriptor: int) -> str:
    signed = _signed(descriptor)
    if signed is None:  # caught between taking the lock and signing it
        return "its holder has not signed the lock yet"
    return f"pid {signed.pid} on {signed.host}"
