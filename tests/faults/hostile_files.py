"""Files that nobody should be able to write.

`mutated` makes other files of a good one of `tests.faults.readers`: bytes in the wrong place, and, where it is JSON,
values of other types, numbers out of all bounds and texts that steer a terminal. `BAD` are files that are no files, or
bombs. Whatever a reader meets, it gives a value, or one line that names the file.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from cai.errors import CaiError
from tests.faults.readers import Reader, jsonl

LIMIT_S = 120  # of one reading; a hang, not a slow machine
MOST_MESSAGE = 4000  # characters of an error
STEERING = "\x1b[31m\x1b]8;;http://x\x07\u202e\u2066\x9b\x00\ud800</script>{{7*7}}[red]%s=1+1|`\n"
ATOMS: list[Any] = [
    None, True, -1, 0, 1e308, 2**63, -(2**64), 10**400, float("nan"), float("inf"), "", " ", "A", STEERING,
    "../../../etc/passwd", "/etc/passwd", "a" * 300, "\x00", "\ud800", "\udc80", "=HYPERLINK(1)", "<|im_end|>",
    [], {}, [[]], [None], {"": None}, {"role": "user", "content": STEERING}, [{"role": "user", "content": 1}],
    [["a", 1]], "1e999", "NaN", "2024-13-45", -0.0, {"$ref": "#"}, ["A", "B"], "tie", 0.5,
]  # fmt: skip
PIECES = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n", b"\n\n", b"\x1b[2J", b"\xe2\x80\xae", b"\xed\xa0\x80",
    b"\xe9", b"\\ud800", b"\\u0000", b'"', b"'", b",", b":", b"[", b"]", b"{", b"}", b"null", b"NaN", b"1e999", b"-",
    b"9" * 400,
    b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ", b"!!int ", b"? ", b"---\n", b"\t", b"#", b"|\n",
    b"\xe2\x80\xa8", b"[" * 3000, b'{"a":' * 3000, b"</script>", b"=1+1", b"..", b"/", b"{principle}",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, reader: Reader) -> bytes:
    """Another file than the good one: with other values where it is JSON, then with other bytes."""
    data = reader.good
    if draw(st.booleans()) and (whole := _as_json(data, reader.lines)) is not None:
        for _ in range(draw(st.integers(1, 4))):
            whole = _changed(draw, whole)
        data = jsonl(whole) if reader.lines and isinstance(whole, list) else json.dumps(whole).encode()
        if draw(st.booleans()):
            return data
    edits = st.tuples(
        st.integers(0, len(data)), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=3)
    )
    for start, length, piece in draw(st.lists(edits, max_size=5)):
        data = data[:start] + piece + data[start + length :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def _as_json(data: bytes, lines: bool) -> Any:
    try:
        return [json.loads(line) for line in data.splitlines()] if lines else json.loads(data)
    except ValueError:
        return None


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """A value with one thing in it replaced, left out, doubled or wrapped."""
    places = list(_places(value))
    path = places[draw(st.integers(0, len(places) - 1))]
    how = draw(st.sampled_from(["atom", "atom", "atom", "gone", "wrap", "key"]))
    atom = draw(st.sampled_from(ATOMS))
    return _replaced(value, path, how, atom)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...], how: str, atom: Any) -> Any:
    if not path:
        return [value] if how == "wrap" else {STEERING: value} if how == "key" else atom
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and how == "gone":
        del copy[key]
    elif not rest and how == "key" and isinstance(copy, dict):
        copy[str(atom)] = copy.pop(key)
    else:
        copy[key] = _replaced(value[key], tuple(rest), how, atom)
    return copy


def _deep(open_: bytes, close: bytes, depth: int = 100_000) -> bytes:
    return open_ * depth + close * depth


BOMBS: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \n\t\n",
    "a byte order mark": b"\xef\xbb\xbf",
    "zeros": bytes(4096),
    "UTF-16": '{"prompt": "Hi"}\n'.encode("utf-16"),
    "Latin-1": b'{"prompt": "caf\xe9"}\n',
    "100,000 lists": _deep(b"[", b"]"),
    "100,000 objects": _deep(b'{"prompt":', b"}"),
    "a row of 100,000 lists": b'{"prompt": ' + _deep(b"[", b"]") + b"}\n",
    "a number of a million digits": b'{"id": ' + b"9" * 1_000_000 + b', "prompt": "Hi"}\n',
    "billion laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(ord("b"), ord("l"))),
    "a text of 3 MB": b'{"prompt": "' + b"x" * 3_000_000 + b'"}\n',
    "one line of 3 MB": b"x" * 3_000_000,
    "a Python object": b"!!python/object/apply:os.system ['false']\n",
    "a Parquet head": b"PAR1" + bytes(100) + b"PAR1",
    "a gzip head": b"\x1f\x8b\x08" + bytes(20),
}  # fmt: skip


def _writer(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _circle(path: Path) -> None:
    path.symlink_to(path)


BAD: dict[str, Callable[[Path], object]] = {
    **{name: _writer(data) for name, data in BOMBS.items()},
    "no file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a circle of links": _circle,
}


def outcome(reader: Reader, path: Path) -> object:
    """What a reader makes of a file: a value, or the CaiError. Raises AssertionError for a message of another sort."""
    with limited():
        try:
            return reader.read(path)
        except CaiError as error:
            check_message(str(error), path)
            return error


def check_message(message: str, path: Path) -> None:
    """One line that names the file and steers nothing."""
    assert path.name.partition(".")[0] in message, message
    assert message.isprintable(), message
    assert len(message) <= MOST_MESSAGE, message[:500]


@contextmanager
def limited(seconds: int = LIMIT_S) -> Iterator[None]:
    """Raise AssertionError where the block takes longer; for the main thread."""

    def stop(*_: object) -> None:
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
