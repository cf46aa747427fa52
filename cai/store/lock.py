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

_held: set[int] = set()  # descriptors of all locks of this process


class Holder(NamedTuple):
    """The process that has a lock."""

    pid: int
    host: str


def lock(path: Path, what: str) -> int:
    """Lock the file `path` for this process and return its descriptor; closing it unlocks.

    Raises StoreError naming `what` and the holder where another process has it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(
                descriptor, path
            ):  # deleted between opening and locking: a lock that nobody else meets
                os.close(descriptor)
                continue
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
        _held.add(descriptor)
        return descriptor


def unlock(descriptor: int) -> None:
    """Give a lock back."""
    _held.discard(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock for the block."""
    descriptor = lock(path, what)
    try:
        yield
    finally:
        unlock(descriptor)


@contextlib.contextmanager
def held_folder(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder itself, where its file system can (NFS cannot): a lock file that is deleted lets nobody in then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{what} is in use by another run, whose lock file was deleted; wait for it or stop it, then run again"
            ) from error
        except OSError:
            pass
        yield
    finally:
        unlock(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _leave_to_parent() -> None:
    """A forked process does not hold the locks of the one that it came from: it may live longer."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


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
        if signed is None or (signed.host == socket.gethostname() and not lives(signed.pid)):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return signed
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def lives(pid: int) -> bool:
    """Whether there is a process of this id on this machine."""
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
