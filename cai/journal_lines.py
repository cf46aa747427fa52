"""The lines of a journal: how one is written, and every intact one found again in a file that was damaged.

A line is {"crc":"<8 hex>","key":"<32 hex>","completion":{…}} and a newline; the CRC-32 covers what follows its field,
so the key as well. Text inside a reply has its quotes escaped, so only a line begins like one: behind a damaged page,
or where a newline was lost, the next intact line is found by its beginning.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from cai.errors import StoreError
from cai.models.base import Completion
from cai.store import decode, encode, explain, guard

LONGEST = 1 << 26  # bytes read as one line: no reply is near it, and a file of another kind fills no memory
_HEAD = b'{"crc":"'
_CHECKED = 18
_KEY = slice(25, 57)
_BODY = slice(72, -1)


def written(key: str, completion: Completion) -> bytes:
    """A line with its newline."""
    rest = b'"key":"%s","completion":%s}' % (key.encode(), encode(completion))
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(rest), rest)


def key_in(line: bytes) -> bytes:
    """The key of an intact line, as its 16 bytes."""
    return bytes.fromhex(line[_KEY].decode())


def completion_in(line: bytes) -> Completion:
    """The reply on a line without its newline. Raises ValueError where it is damaged or of another version."""
    if not _intact(line):
        raise ValueError("the checksum does not match")
    return decode(line[_BODY], Completion)


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """What lies in a file: (place in bytes, line without its newline, True); (place, what is there, False): damage.

    Of a damaged line the damage comes first, then the intact ones that are found in it. The last line may lack its
    newline.
    """
    offset = 0
    while line := file.readline(LONGEST):
        body = line[:-1] if line.endswith(b"\n") else line
        if _intact(body):
            yield offset, body, True
        else:
            yield offset, body, False
            for start, inside in _inside(body):
                yield offset + start, inside, True
        offset += len(line)


def look_up(path: Path, keys: Collection[str]) -> dict[str, Completion]:
    """The replies under some keys, found in one pass without an index, also while a run writes the file.

    A key that is not there, or on a damaged line, is left out. Raises StoreError where the file cannot be read.
    """
    wanted = {key.encode() for key in keys}
    found: dict[str, Completion] = {}
    with guard(path), path.open("rb") as file:
        for _, line, intact in lines(file):
            if intact and line[_KEY] in wanted:
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


def _inside(damaged: bytes) -> Iterator[tuple[int, bytes]]:
    """The intact lines within a damaged one, with their places in it."""
    start = damaged.find(_HEAD)
    while start >= 0:
        following = damaged.find(_HEAD, start + 1)
        inside = damaged[start : following if following >= 0 else len(damaged)]
        if _intact(inside):
            yield start, inside
        start = following


def _intact(line: bytes) -> bool:
    return line[:_CHECKED] == b'{"crc":"%08x",' % zlib.crc32(memoryview(line)[_CHECKED:])
