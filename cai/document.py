"""One constitution file with the position of everything in it, and the errors that it holds by itself.

A message says what is wrong and the fix, in the words of the file and not in those of pydantic. Where a key is
misspelt, the one that is missing because of it is not reported as well.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cai.principle import ConstitutionFile, Example, Principle, PrincipleTest, Source
from cai.rows import Message

_SECTIONS: dict[str | None, type[BaseModel]] = {
    None: ConstitutionFile,
    "principles": Principle,
    "examples": Example,
    "tests": PrincipleTest,
    "conversation": Message,
    "prompt": Message,
    "source": Source,
}
Loc = tuple[int | str, ...]


class Finding(NamedTuple):
    """One thing that is wrong in a file; `line` and `column` count from 1, in characters."""

    file: str
    line: int
    column: int
    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


@dataclass
class Document:
    """One file: its YAML nodes for positions, its content where that is valid, and its errors."""

    path: Path
    node: yaml.Node | None
    file: ConstitutionFile | None
    findings: list[Finding]

    def finding(self, loc: Loc, message: str, *, warning: bool = False, key: bool = False) -> Finding:
        """A finding at the value at `loc`, or at its key."""
        line, column = position(self.node, loc, key)
        return Finding(str(self.path), line, column, "warning" if warning else "error", message)


def read_document(path: Path) -> Document:
    """Parse and validate one file by itself."""

    def broken(message: str, line: int = 1, column: int = 1) -> Document:
        return Document(path, None, None, [Finding(str(path), line, column, "error", message)])

    try:
        loader = yaml.SafeLoader(path.read_bytes())
        node = loader.get_single_node()
        document = Document(path, node, None, [])
        document.findings += [
            document.finding(loc, message, key=True) for loc, message in _repeated_keys(node)
        ]
        data = loader.construct_document(node) if node else None
    except OSError as error:
        return broken(f"cannot be read ({error.strerror}); give the path of a constitution file")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return broken(f"not valid YAML: {error.problem or error.context}; mend the syntax here", *where)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return broken(f"not valid YAML: {str(error).splitlines()[0]}; mend the file")
    if not isinstance(data, dict):
        return broken("a constitution is a mapping; start with 'schema: 1'")
    try:
        document.file = ConstitutionFile.model_validate(data)
    except ValidationError as error:
        document.findings += _invalid(document, error.errors())
    else:
        document.findings += _repeated_ids(document, document.file)
    return document


def _repeated_keys(root: yaml.Node | None) -> Iterator[tuple[Loc, str]]:
    """Keys that a mapping holds twice, of which YAML would silently keep the last."""
    stack: list[tuple[Loc, yaml.Node | None]] = [((), root)]
    visited: set[int] = set()
    while stack:
        loc, node = stack.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if isinstance(key, yaml.ScalarNode) and name in keys and name != "<<":
                    yield (*loc, name), f"{name!r} stands here twice; keep one"
                keys.add(name)
                stack.append(((*loc, name), value))
        elif isinstance(node, yaml.SequenceNode):
            stack += [((*loc, index), item) for index, item in enumerate(node.value)]


def _repeated_ids(document: Document, file: ConstitutionFile) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, principle in enumerate(file.principles):
        if principle.id in first:
            line, _ = position(document.node, ("principles", first[principle.id], "id"))
            problem = f"principle {principle.id!r} is already in line {line}; rename or remove one"
            yield document.finding(("principles", index, "id"), problem)
        first.setdefault(principle.id, index)


def position(node: yaml.Node | None, loc: Loc, key: bool = False) -> tuple[int, int]:
    """Line and column, from 1, of the deepest part of `loc` that is there: of its value, or of its key."""
    mark = node.start_mark if node is not None else None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            # the last one of a repeated key is the one that counts, and the one to complain about
            pair = next(((k, v) for k, v in reversed(node.value) if k.value == str(part)), None)
            if pair is None:
                break
            node, mark = pair[1], pair[0 if key else 1].start_mark
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            break
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _invalid(document: Document, errors: list[ErrorDetails]) -> Iterator[Finding]:
    """Findings for what pydantic refused; a required key that is there misspelt is told once."""
    misspelt: set[Loc] = set()
    for error in errors:
        if error["type"] == "extra_forbidden":
            near = _near(error["loc"])
            misspelt |= {(*error["loc"][:-1], name) for name in near}
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_known(error['loc']))}"
            yield document.finding(error["loc"], f"unknown key {error['loc'][-1]!r}; {hint}", key=True)
    for error in errors:
        loc = error["loc"]
        if error["type"] == "missing" and loc not in misspelt:
            yield document.finding(loc[:-1], f"the key {loc[-1]!r} is missing; add it")
        elif error["type"] not in ("missing", "extra_forbidden"):
            yield document.finding(loc, _explain(error))


def _known(loc: Loc) -> list[str]:
    section = _SECTIONS[next((part for part in reversed(loc[:-1]) if isinstance(part, str)), None)]
    return [field.alias or name for name, field in section.model_fields.items()]


def _near(loc: Loc) -> list[str]:
    return difflib.get_close_matches(str(loc[-1]), _known(loc), n=1)


def _explain(error: ErrorDetails) -> str:
    """What is wrong with one value, and the fix."""
    name = next((part for part in reversed(error["loc"]) if isinstance(part, str)), "the file")
    value, kind, shown = error["input"], error["type"], _shown(error["input"])
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        slug = re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-") or "no-harm"
        return f"id {value!r} is not kebab-case; write it like {slug!r}"
    if kind == "literal_error":
        fix = "write 'schema: 1'" if name == "schema" else f"use {error['ctx']['expected']}"
        return f"{name!r} cannot be {shown}; {fix}"
    if kind == "string_type":
        fix = "write a text" if isinstance(value, dict | list | None) else "put it in quotes"
        return f"{name!r} must be a text (got {shown}); {fix}"
    fixes = {
        "string_too_short": f"{name!r} is empty; write a text",
        "greater_than": f"{name!r} must be above 0 (got {shown}); raise it",
        "tuple_type": f"{name!r} must be a list (got {shown}); write '- …' lines below it",
        "too_short": f"{name!r} must not be empty; write at least one entry, or remove it",
        "model_type": f"an entry of {name!r} must be a mapping (got {shown}); write 'key: value' lines",
    }
    return fixes.get(kind) or f"{name!r} is not valid (got {shown}): {error['msg']}; change it"


def _shown(value: Any) -> str:
    """A value as the user may have written it, cut to a readable length."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
