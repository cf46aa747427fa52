"""Files that a user names: regular ones only, so that nothing waits for a pipe or reads a device without an end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import AnyStr

LONGEST_LINE = 1 << 26  # characters or bytes; what one row takes in memory is a few times that
LARGEST = 1 << 28  # bytes of a file that is read as a whole


def open_given(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raises OSError for whatever else there is, and where nothing is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise OSError(errno.EINVAL, "is a pipe or a device, not a file")
    return os.fdopen(descriptor, "rb")


def read_given(path: Path) -> bytes:
    """All bytes of a regular file of at most `LARGEST`. Raises OSError."""
    with open_given(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise OSError(errno.EFBIG, f"is longer than {LARGEST >> 20} MiB")
        return file.read()


def bounded_lines(readline: Callable[[int], AnyStr]) -> Iterator[AnyStr]:
    """The lines of a stream with their ends. Raises OSError at one that is longer than `LONGEST_LINE`.

    A packed file of a few kilobytes may hold one of gigabytes.
    """
    number = 0
    while line := readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise OSError(
                errno.EFBIG, f"line {number} is longer than {LONGEST_LINE >> 20} million characters"
            )
        yield line
