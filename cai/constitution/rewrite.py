"""Mending a constitution file in place, where what is meant is certain; whatever else stands in it stays.

A mend replaces the few characters that are wrong and leaves every other byte as it is: a round trip of the whole
file through a YAML library would keep its comments, but not an unusual layout. The library (ruamel.yaml) is what the
result is held against: the mended text must read, comments and quotes included, like the old one with its values
mended. Otherwise nothing is written.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cai.constitution.document import Document, Loc, read_document
from cai.constitution.explain import near_keys
from cai.errors import StoreError
from cai.store import guard, write_bytes

CERTAIN = 0.75  # difflib ratio to the only known key from which a misspelt one is taken for it
ROUNDS = 5  # a mended key lets its value be checked, which may have to be mended as well
_LISTS = ("use", "applies_to", "extends")
_BOOLS = {"true": "true", "yes": "true", "false": "false", "no": "false"}
_PLAIN_ITEM = re.compile(r"[^\s,\[\]{}#:\"'&*!|>%@`-][^,\[\]{}#:\n]*")


class Mend(NamedTuple):
    """Text to put in place of the characters from `start` to `end`: of the value at `loc`, or of its key."""

    start: int
    end: int
    text: str
    loc: Loc
    key: bool


class Fixed(NamedTuple):
    """What was mended, and where it stood; `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    message: str


def mend_file(path: Path) -> list[Fixed]:
    """Mend a file in place, atomically; one in which nothing is to be mended stays untouched.

    Raises StoreError where it cannot be written, or was changed meanwhile.
    """
    document = read_document(path)
    fixed: list[Fixed] = []
    text = before = document.read.text
    for _ in range(ROUNDS):
        mends = list(find_mends(document))
        mended = apply_mends(text, mends) if mends else None
        if mended is None and len(mends) > 1:  # one of them is not certain; the others may be
            mends = _certain(text, mends)
            mended = apply_mends(text, mends) if mends else None
        if mended is None:
            break
        for mend in mends:
            told = f"{text[mend.start : mend.end]} is now {mend.text}"
            fixed.append(Fixed(str(path), *document.place(mend.loc, mend.key), told))
        text = mended
        document = read_document(path, text)
    if fixed:
        _replace(path, before, text)
    return fixed


def _certain(text: str, mends: list[Mend]) -> list[Mend]:
    """Those of the mends that read as they are meant, found by halves."""
    if len(mends) == 1:
        return mends if apply_mends(text, mends) is not None else []
    half = len(mends) // 2
    parts = (mends[:half], mends[half:])
    return [
        mend
        for part in parts
        for mend in (part if apply_mends(text, part) is not None else _certain(text, part))
    ]


def _replace(path: Path, before: str, after: str) -> None:
    """Write the text of a file that holds `before`, with the byte order mark and the permissions that it has."""
    real = path.resolve()  # a link stays a link
    with guard(path):
        data, mode = real.read_bytes(), real.stat().st_mode
    if data.decode("utf-8-sig", "replace") != before:
        raise StoreError(f"{path}: was changed while it was mended; run the command again")
    write_bytes(real, data[: len(data) - len(before.encode())] + after.encode())
    with guard(path):
        real.chmod(mode)


def find_mends(document: Document) -> Iterator[Mend]:
    """What is certain to be meant otherwise, of all that keeps a file from being valid."""
    renamed: set[Loc] = set()
    for error in document.errors:
        loc, key = error["loc"], error["type"] == "extra_forbidden"
        span = _span(document, loc, key)
        if span is None:
            continue
        written = document.read.text[span[0] : span[1]]
        if key:
            name = _renamed(document, loc)
            if name is None or (*loc[:-1], name) in renamed:
                continue
            renamed.add((*loc[:-1], name))
            mended: str | None = written.replace(str(loc[-1]), name)
        else:
            mended = _mended(error, written)
        if mended is not None:
            yield Mend(*span, mended, loc, key)


def apply_mends(text: str, mends: list[Mend]) -> str | None:
    """The mended text; None where it would not be read as what is meant."""
    mended = text
    for mend in sorted(mends, reverse=True):
        mended = mended[: mend.start] + mend.text + mended[mend.end :]
    try:
        tree = _load(text)
        for mend in mends:
            *path, last = mend.loc
            holder = tree
            for part in path:
                holder = holder[part]
            if mend.key:
                _rename(holder, last, mend.text.strip("\"'"))
            else:
                holder[last] = _load(mend.text)
        read = _load(mended)
        return mended if read == tree and _dump(read) == _dump(tree) else None
    except (YAMLError, LookupError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None  # what the library cannot follow is not certain


def _span(document: Document, loc: Loc, key: bool) -> tuple[int, int] | None:
    """From where to where a text of one line stands in the file; None where it is written elsewhere, by an alias."""
    node, whole = document.node(loc, key)
    above, _ = document.node(loc[:-1])
    if not whole or not isinstance(node, yaml.ScalarNode) or above is None:
        return None
    start, end = node.start_mark.index, node.end_mark.index
    if not above.start_mark.index <= start < end <= above.end_mark.index:
        return None
    written = document.read.text[start:end]
    return (start, end) if written in (node.value, f'"{node.value}"', f"'{node.value}'") else None


def _renamed(document: Document, loc: Loc) -> str | None:
    """The one known key that a misspelt one stands for, where the file does not have it yet."""
    near = near_keys(loc, CERTAIN)
    if len(near) != 1 or document.node((*loc[:-1], near[0]))[1]:
        return None
    return near[0]


def _mended(error: ErrorDetails, written: str) -> str | None:
    """A value as it is meant; None where that is not certain."""
    kind, value, name = error["type"], error["input"], error["loc"][-1]
    quoted = written[:1] in ("'", '"')
    if kind == "string_type" and value is not None and not quoted and written.isprintable():
        return f'"{written}"'
    if kind == "tuple_type" and name in _LISTS and isinstance(value, str):
        return f"[{written}]" if quoted or _PLAIN_ITEM.fullmatch(written) else None
    if not isinstance(value, str):
        return None
    if kind == "literal_error" and error["loc"] == ("schema",):
        return "1" if value == "1" else None
    if kind in ("float_type", "int_type"):
        pattern = r"-?(0|[1-9]\d{0,8})" + (r"(\.\d+)?" if kind == "float_type" else "")
        return value if re.fullmatch(pattern, value, re.ASCII) else None
    return _BOOLS.get(value.lower()) if kind == "bool_type" else None


def _library() -> YAML:
    library = YAML()
    library.version = (1, 1)  # what PyYAML reads
    library.preserve_quotes = True
    library.allow_duplicate_keys = True
    library.width = 1 << 30
    return library


def _load(text: str) -> Any:
    return _library().load(text)


def _dump(tree: Any) -> str:
    """A tree as text, for its order, quotes and comments; blank lines and how far comments stand do not count."""
    stream = io.StringIO()
    _library().dump(tree, stream)
    return re.sub(r"\s*\n", "\n", re.sub(r"[ \t]+#", " #", stream.getvalue()))


def _rename(mapping: Any, old: int | str, new: str) -> None:
    """Rename a key where it stands, with its comments."""
    place = list(mapping).index(old)
    comments = mapping.ca.items.pop(old, None)
    mapping.insert(place, new, mapping.pop(old))
    if comments is not None:
        mapping.ca.items[new] = comments
