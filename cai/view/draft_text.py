"""Changing a principle in the text of a constitution, and not a byte of what stands around it.

A change replaces the characters of one value, or adds a line for one that is not there. How the value is written is
tried in turn, the plainest way first, and kept where the whole text then reads as it did, but for that value. Where
no way does, nothing is changed.
"""

from __future__ import annotations

import copy
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cai.constitution.document import Document, Loc, read_document
from cai.errors import ConstitutionError
from cai.yaml_file import Unreadable, parse_yaml

WORDINGS = ("statement", "critique", "revision", "judge")
WIDTH = 100  # characters of a line in a folded text


def with_wordings(path: Path, text: str, number: int, wordings: Mapping[str, str | None]) -> str:
    """The text of a file with these wordings of its `number`-th principle (from 0); None: it has none of its own.

    Raises ConstitutionError, `file:line:column: what; fix`, where one cannot be changed in place.
    """
    for name in WORDINGS:
        if name in wordings:
            document = _readable(path, text)
            own = document.read.data["principles"][number]
            value = wordings[name]
            if _same(own.get(name), value):
                continue
            loc = ("principles", number, name)
            ways = _replaced(document, loc, value) if name in own else _added(document, loc, value)
            text = _first_right(document, loc, value, ways)
    return text


def with_value(path: Path, text: str, loc: Loc, value: str) -> str:
    """The text of a file with another value at a place where it has one. Raises ConstitutionError."""
    document = _readable(path, text)
    return _first_right(document, loc, value, _replaced(document, loc, value))


def with_principle(path: Path, text: str, principle: Mapping[str, Any]) -> str:
    """The text of a file with one more principle, the last one. Raises ConstitutionError."""
    document = _readable(path, text)
    data = copy.deepcopy(document.read.data)
    data["principles"] = [*(data.get("principles") or ()), dict(principle)]
    for changed in _appended(document, principle):
        if _reads_as(changed, data):
            return changed
    raise _stuck(document, ("principles",))


def entry_text(path: Path, text: str, number: int) -> str | None:
    """A principle as its file writes it, moved to the left; None where it cannot be cut out."""
    span = _entry(_readable(path, text), number)
    if span is None:
        return None
    start, end, indent = span
    cut = _outdented(text[start:end], indent)
    return cut if _indented(cut, indent) == text[start:end] else None


def with_entry(path: Path, text: str, number: int, entry: str) -> str:
    """The text of a file with a principle written anew, under its old id. Raises ConstitutionError."""
    document = _readable(path, text)
    span, old = _entry(document, number), document.read.data
    if span is None:
        raise _stuck(document, ("principles", number))
    start, end, indent = span
    changed = text[:start] + _indented(entry.strip("\n").rstrip(), indent) + text[end:]
    found = read_document(path, changed)
    if found.findings:
        raise ConstitutionError(str(found.findings[0]))
    new = copy.deepcopy(found.read.data)
    entries = new.get("principles") or []
    if len(entries) != len(old["principles"]) or entries[number].get("id") != old["principles"][number]["id"]:
        problem = (
            f"this must stay the one principle {old['principles'][number]['id']!r}; change the rest of it"
        )
        raise ConstitutionError(str(document.finding(("principles", number), problem)))
    entries[number] = old["principles"][number]
    if new != old:
        problem = "this changes more of the file than the principle; indent it as it was"
        raise ConstitutionError(str(document.finding(("principles", number), problem)))
    return changed


def _readable(path: Path, text: str) -> Document:
    document = read_document(path, text)
    if document.findings:
        raise ConstitutionError(str(document.findings[0]))
    return document


def _same(old: Any, value: str | None) -> bool:
    return (old.strip() if isinstance(old, str) else old) == value


def _first_right(document: Document, loc: Loc, value: str | None, ways: Iterator[str]) -> str:
    """The first of the changed texts that reads as it should."""
    data = copy.deepcopy(document.read.data)
    holder = data
    for part in loc[:-1]:
        holder = holder[part]
    holder[loc[-1]] = value
    strict = _is_strict(document.read.text)
    for changed in ways:
        if _reads_as(changed, data) and (_is_strict(changed) or not strict):
            return changed
    raise _stuck(document, loc)


def _is_strict(text: str) -> bool:
    """Whether readers of YAML take it that are stricter than ours, which lets a bare tab pass, or `?` in brackets."""
    try:
        yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return False
    return True


def _reads_as(text: str, data: Any) -> bool:
    try:
        return bool(parse_yaml(text).data == data)
    except Unreadable:
        return False


def _stuck(document: Document, loc: Loc) -> ConstitutionError:
    problem = "cannot be changed here without touching other lines; edit the file by hand"
    return ConstitutionError(str(document.finding(loc, f"{loc[-1]} {problem}")))


def _replaced(document: Document, loc: Loc, value: str | None) -> Iterator[str]:
    node, whole = document.node(loc)
    if not whole or not isinstance(node, yaml.ScalarNode):
        return
    text, start, end = document.read.text, node.start_mark.index, node.end_mark.index
    written = text[start:end]
    after = written[len(written.rstrip()) :]  # of a block: it ends where the next line begins
    key, _ = document.node(loc, key=True)
    indent = key.start_mark.column if key is not None and isinstance(loc[-1], str) else None
    for way in _written(value, indent, folded=written.startswith(">")):
        yield text[:start] + way + after + text[end:]


def _added(document: Document, loc: Loc, value: str | None) -> Iterator[str]:
    """A new key behind the last of the wordings before it; a statement is always there."""
    before = [(*loc[:-1], name) for name in WORDINGS[: WORDINGS.index(str(loc[-1]))]]
    last_one = next(one for one in reversed(before) if document.node(one)[1])
    (node, _), (key, _) = document.node(last_one), document.node(last_one, key=True)
    holder, _ = document.node(loc[:-1])
    if node is None or key is None or not isinstance(holder, yaml.MappingNode):
        return
    text, end = document.read.text, node.end_mark.index
    if holder.flow_style:
        yield f"{text[:end]}, {_quoted(str(loc[-1]))}: {_quoted(value)}{text[end:]}"
        return
    line_end = text.find("\n", len(text[:end].rstrip()))
    line_end = len(text) if line_end < 0 else line_end
    line_end -= text[line_end - 1] == "\r"
    indent = key.start_mark.column
    for way in _written(value, indent, folded=False):
        yield f"{text[:line_end]}\n{' ' * indent}{loc[-1]}: {way}{text[line_end:]}"


def _written(value: str | None, indent: int | None, folded: bool) -> Iterator[str]:
    """A value as YAML, the plainest way first; `indent`: of its key, None within brackets or a list."""
    if value is None:
        yield "null"
        return
    if indent is not None:
        margin = " " * (indent + 2)
        if folded:
            yield ">-\n" + textwrap.indent(_filled(value), margin)
        if "\n" in value:
            yield "|-\n" + textwrap.indent(value, margin)
    if "\n" not in value:
        yield value
    yield _quoted(value)


def _filled(value: str) -> str:
    return textwrap.fill(value, WIDTH, break_long_words=False, break_on_hyphens=False)


def _quoted(value: str | None) -> str:
    """A text in double quotes, on one line."""
    dumped = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))
    return "null" if value is None else str(dumped).rstrip("\n")


def _appended(document: Document, principle: Mapping[str, Any]) -> Iterator[str]:
    text = document.read.text
    node, whole = document.node(("principles",))
    if not whole:
        root = document.read.node
        if isinstance(root, yaml.MappingNode) and root.flow_style:
            end = root.end_mark.index - 1
            yield f'{text[:end]}, "principles": [{json.dumps(principle)}]{text[end:]}'
        else:
            yield f"{text.rstrip()}\nprinciples:\n{_item(principle, 2)}\n"
        return
    if not isinstance(node, yaml.SequenceNode):
        return
    end = node.end_mark.index
    if node.flow_style:
        comma = ", " if node.value else ""
        yield f"{text[: end - 1]}{comma}{json.dumps(principle)}{text[end - 1 :]}"
        return
    last = len(text[:end].rstrip())
    yield f"{text[:last]}\n{_item(principle, node.start_mark.column)}{text[last:] or chr(10)}"


def _item(principle: Mapping[str, Any], indent: int) -> str:
    body = yaml.safe_dump(dict(principle), sort_keys=False, allow_unicode=True, width=float("inf")).rstrip(
        "\n"
    )
    return " " * indent + "- " + textwrap.indent(body, " " * (indent + 2)).lstrip(" ")


def _entry(document: Document, number: int) -> tuple[int, int, int] | None:
    """From where to where a principle is written, and how far it is indented; None for one within brackets."""
    node, whole = document.node(("principles", number))
    if not whole or not isinstance(node, yaml.MappingNode) or node.flow_style:
        return None
    last: yaml.Node = node
    while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    end = len(
        document.read.text[: last.end_mark.index].rstrip()
    )  # a block's own end is behind the comments after it
    return node.start_mark.index, end, node.start_mark.column


def _outdented(text: str, indent: int) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *(line.removeprefix(" " * indent) for line in rest)])


def _indented(text: str, indent: int) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *(" " * indent + line if line.strip() else line for line in rest)])
