"""One constitution file with the position of everything in it, and the errors that it holds by itself.

A message says what is wrong and the fix, in the words of the file and not in those of pydantic. Where a key is
misspelt, the one that is missing because of it is not reported as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cai.constitution.explain import explain, known_keys, near_keys, read_as
from cai.constitution.principle import ConstitutionFile
from cai.printable import printable
from cai.yaml_file import (
    Unreadable,
    YamlFile,
    key_of,
    line_column,
    line_starts,
    parse_yaml,
    read_yaml,
)

MOST_ERRORS = 1000  # told of one file; who has more of them has another problem
_KINDS = ("dict", "list", "[key]")  # what pydantic puts between the keys of a place below `source.original`
Loc = tuple[int | str, ...]


class Finding(NamedTuple):
    """One thing that is wrong in a file; `line` and `column` count from 1, in characters."""

    file: str
    line: int
    column: int
    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        return printable(f"{self.file}:{self.line}:{self.column}: {self.message}")


@dataclass
class Document:
    """One file: its text and nodes, its content where that is valid, and its errors.

    `errors`: what pydantic refused, from which `findings` are told and `cai.constitution.rewrite` knows what to mend.
    """

    path: Path
    read: YamlFile
    file: ConstitutionFile | None = None
    findings: list[Finding] = field(default_factory=list)
    errors: list[ErrorDetails] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._starts = line_starts(self.read.text)
        self._keys: dict[int, dict[Any, tuple[yaml.Node, yaml.Node]]] = {}

    def finding(self, loc: Loc, message: str, *, warning: bool = False, key: bool = False) -> Finding:
        """A finding at the value at `loc`, or at its key."""
        line, column = self.place(loc, key)
        return Finding(str(self.path), line, column, "warning" if warning else "error", message)

    def place(self, loc: Loc, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the deepest part of `loc` that is there: of its value, or of its key."""
        node = self.node(loc, key)[0]
        return self.line_column(node.start_mark.index) if node is not None else (1, 1)

    def line_column(self, index: int) -> tuple[int, int]:
        """Line and column, from 1, of a character of the text."""
        return line_column(self._starts, index)

    def node(self, loc: Loc, key: bool = False) -> tuple[yaml.Node | None, bool]:
        """The node of the deepest part of `loc` that is there (or of its key), and whether that is all of it."""
        node = found = self.read.node
        for part in loc:
            if isinstance(node, yaml.MappingNode):
                pair = self._pairs(node).get(part)
                if pair is None and part in _KINDS:
                    continue
                if pair is None:
                    return found, False
                node, found = pair[1], pair[0 if key else 1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = found = node.value[part]
            elif part in _KINDS:
                continue
            else:
                return found, False
        return found, True

    def _pairs(self, node: yaml.MappingNode) -> dict[Any, tuple[yaml.Node, yaml.Node]]:
        """Keys and values by the key; the last of a repeated key, which is the one that counts."""
        if id(node) not in self._keys:
            self._keys[id(node)] = {
                key_of(k): (k, v) for k, v in node.value if isinstance(k, yaml.ScalarNode)
            }
        return self._keys[id(node)]


def read_document(path: Path, text: str | None = None) -> Document:
    """Parse and validate one file by itself, or the `text` that it is to have."""
    try:
        document = Document(path, read_yaml(path) if text is None else parse_yaml(text))
    except Unreadable as error:
        found = Finding(str(path), error.line, error.column, "error", str(error))
        return Document(path, YamlFile(""), findings=[found])
    data = document.read.data
    if not isinstance(data, dict):
        kind = "the file is empty" if data is None else "a constitution is a mapping"
        document.findings.append(document.finding((), f"{kind}; start with 'schema: 1'"))
        return document
    document.findings += [
        Finding(str(path), *document.line_column(index), "error", f"{name!r} stands here twice; keep one")
        for name, index in document.read.repeated
    ]
    try:
        document.file = ConstitutionFile.model_validate(data)
    except ValidationError as error:
        document.errors = error.errors(include_url=False)[: MOST_ERRORS + 1]
        document.findings += _invalid(document, document.errors)
    else:
        document.findings += _repeated_ids(document, document.file)
    document.findings.sort(key=lambda finding: finding[1:3])
    if len(document.findings) > MOST_ERRORS:
        problem = f"this file has more than {MOST_ERRORS} errors; mend these first"
        document.findings = [*document.findings[:MOST_ERRORS], document.finding((), problem)]
    return document


def _repeated_ids(document: Document, file: ConstitutionFile) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, principle in enumerate(file.principles):
        if principle.id in first:
            line, _ = document.place(("principles", first[principle.id], "id"))
            problem = f"principle {principle.id!r} is already in line {line}; rename or remove one"
            yield document.finding(("principles", index, "id"), problem)
        first.setdefault(principle.id, index)


def _invalid(document: Document, errors: list[ErrorDetails]) -> Iterator[Finding]:
    """Findings for what pydantic refused; a required key that is there misspelt is told once."""
    misspelt: set[Loc] = set()
    for error in errors:
        if error["type"] == "extra_forbidden":
            near = near_keys(error["loc"])[:1]
            misspelt |= {(*error["loc"][:-1], name) for name in near}
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known_keys(error['loc']))}"
            yield document.finding(error["loc"], f"unknown key {error['loc'][-1]!r}; {hint}", key=True)
    for error in errors:
        loc = error["loc"]
        if error["type"] == "missing" and loc not in misspelt:
            yield document.finding(loc[:-1], f"the key {loc[-1]!r} is missing; add it")
        elif error["type"] == "invalid_key" or loc[-1:] == ("[key]",):
            node, _ = document.node(loc, key=True)
            key = node.value if isinstance(node, yaml.ScalarNode) else error["input"]
            read = read_as(error["input"])
            yield document.finding(loc, f"YAML reads the key {key} as {read}; put it in quotes", key=True)
        elif error["type"] not in ("missing", "extra_forbidden"):
            node, whole = document.node(loc)
            yield document.finding(loc, explain(error, node if whole else None))
