"""A constitution with all that it extends, and everything that is wrong with it.

Errors keep a constitution from being loaded; `load_constitution` raises the first of them. Warnings are only
told by `lint`. A file is read once however often it is extended, parents before children, and a principle
replaces an earlier one of the same id in its place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from cai.document import Document, Finding, read_document
from cai.principle import Principle

LONG_STATEMENT = 400  # characters; a longer one is several principles, and small models lose its end
NEAR_DUPLICATE = 0.85  # difflib ratio of two statements, lower-cased, from which they are called alike
_PLACEHOLDER = re.compile(r"\{[^{}\n]*\}|\b(?:TODO|FIXME|TBD|XXX)\b")


class Defined(NamedTuple):
    """A principle and where it is written: in which file, and as the how-many-th there, from 0."""

    principle: Principle
    document: Document
    number: int


class Resolved(NamedTuple):
    """A file with its parents merged in; it can be used where there are no `findings`."""

    document: Document
    principles: tuple[Defined, ...]
    findings: list[Finding]


def lint(path: str | Path) -> list[Finding]:
    """All that is wrong with a constitution: its errors, those of what it extends, its own warnings."""
    found = resolve(Path(path))
    return found.findings + sorted(_warnings(found))


def resolve(path: Path) -> Resolved:
    """Read a constitution and all that it extends; errors are returned, those of the file itself first."""
    documents: dict[Path, Document] = {}
    root = _read(path, (), documents)
    principles: dict[str, Defined] = {}
    for document in documents.values():
        for number, principle in enumerate(document.file.principles if document.file else ()):
            principles[principle.id] = Defined(principle, document, number)
    findings = [*root.findings, *(f for d in documents.values() if d is not root for f in d.findings)]
    if not principles and not findings:
        problem = "there are no principles; write at least one"
        findings.append(root.finding(("principles",), problem, key=True))
    return Resolved(root, tuple(principles.values()), findings)


def _read(path: Path, chain: tuple[Path, ...], documents: dict[Path, Document]) -> Document:
    """Read one file after its parents. `chain`: the files that led here, which it must not extend again."""
    document = read_document(path)
    chain = (*chain, path.resolve())
    for index, name in enumerate(document.file.extends if document.file else ()):
        parent = path.parent / name
        if parent.resolve() in chain:
            names = [link.name for link in (*chain[chain.index(parent.resolve()) :], parent)]
            problem = f"the files extend each other ({' → '.join(names)}); remove one of these"
        elif not parent.is_file():
            problem = f"extends {name!r}, but there is no file {parent}; paths are relative to this file"
        else:
            if parent.resolve() not in documents:
                _read(parent, chain, documents)
            continue
        document.findings.append(document.finding(("extends", index), problem))
    document.findings.sort(key=lambda finding: finding[1:3])
    documents[path.resolve()] = document
    return document


def _warnings(found: Resolved) -> Iterator[Finding]:
    """What may be meant but rarely is, for the principles that the file itself holds."""
    root = found.document
    own = [(defined.principle, defined.number) for defined in found.principles if defined.document is root]
    for principle, number in own:
        for field, message in _principle_warnings(principle):
            yield root.finding(("principles", number, field), message, warning=True)
    for one, two in combinations(found.principles, 2):
        second, first = (two, one) if two.document is root else (one, two)
        if second.document is root and _alike(first.principle.statement, second.principle.statement):
            message = f"this is nearly the statement of {first.principle.id!r}; merge them or tell them apart"
            yield root.finding(("principles", second.number, "statement"), message, warning=True)
    for use in ("revise", "judge"):
        if own and not any(use in defined.principle.use for defined in found.principles):
            problem = f"no principle is used to {use}; add {use!r} to the 'use' of one"
            yield root.finding(("principles",), problem, warning=True, key=True)


def _principle_warnings(principle: Principle) -> Iterator[tuple[str, str]]:
    if len(principle.statement) > LONG_STATEMENT:
        size = f"{len(principle.statement)} characters"
        yield "statement", f"the statement has {size} (over {LONG_STATEMENT}); split it into several"
    for field in ("statement", "critique", "revision", "judge"):
        if match := _PLACEHOLDER.search(getattr(principle, field) or ""):
            yield field, f"{match[0]!r} reaches the model as it stands; replace it by a text"
    unread = [name for name in ("critique", "revision", "examples") if "revise" not in principle.use]
    unread += ["judge"] if "judge" not in principle.use else []
    for name in unread:
        if getattr(principle, name):
            yield name, f"{name!r} is never read, as 'use' leaves out its stage; remove it or extend 'use'"


def _alike(a: str, b: str) -> bool:
    matcher = difflib.SequenceMatcher(None, a.lower(), b.lower(), autojunk=False)
    return matcher.quick_ratio() >= NEAR_DUPLICATE and matcher.ratio() >= NEAR_DUPLICATE
