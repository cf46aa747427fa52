"""A constitution with all that it extends: every file read once, and where each principle comes from.

A file is read once however often it is extended, parents before children, and a principle replaces an earlier one
of the same id in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cai.constitution.document import Document, Finding, read_document
from cai.constitution.principle import ConstitutionFile, Principle
from cai.errors import ConstitutionError
from cai.printable import shortened

LONGEST_NAME = 400  # characters of a file's name that a message repeats
LONGEST_CHAIN = 50  # files that extend one another in a row


class Defined(NamedTuple):
    """A principle and where it is written: in which file, as the how-many-th there, from 0, and in place of which."""

    principle: Principle
    document: Document
    number: int
    replaces: Defined | None = None

    @property
    def line(self) -> int:
        """Where it stands in its file, from 1."""
        return self.document.place(("principles", self.number))[0]


class Resolved(NamedTuple):
    """A file with its parents merged in; it can be used where there are no `findings`."""

    document: Document
    principles: tuple[Defined, ...]
    findings: list[Finding]

    @property
    def file(self) -> ConstitutionFile:
        """The file itself. Raises ConstitutionError, `file:line:column: what; fix`, for the first finding."""
        if self.findings or self.document.file is None:
            raise ConstitutionError(str(self.findings[0]))
        return self.document.file


def resolve(path: Path) -> Resolved:
    """Read a constitution and all that it extends; errors are returned, those of the file itself first."""
    documents: dict[Path, Document] = {}
    root = _read(path, (), documents)
    principles: dict[str, Defined] = {}
    for document in documents.values():
        for number, principle in enumerate(document.file.principles if document.file else ()):
            earlier = principles.get(principle.id)
            principles[principle.id] = Defined(principle, document, number, earlier)
    findings = [*root.findings, *(f for d in documents.values() if d is not root for f in d.findings)]
    if not principles and not findings:
        problem = "there are no principles; write at least one"
        findings.append(root.finding(("principles",), problem, key=True))
    return Resolved(root, tuple(principles.values()), findings)


def _read(path: Path, chain: tuple[Path, ...], documents: dict[Path, Document]) -> Document:
    """Read one file after its parents. `chain`: the files that led here, which it must not extend again."""
    document = read_document(path)
    own = _real(path) or path
    chain = (*chain, own)
    for index, name in enumerate(document.file.extends if document.file else ()):
        parent = path.parent / name
        real = _real(parent)
        if real in chain:
            names = [link.name for link in (*chain[chain.index(real) :], parent)]
            problem = f"the files extend each other ({' → '.join(names)}); remove one of these"
        elif real is None:
            there = shortened(str(parent), LONGEST_NAME)
            problem = f"extends {shortened(name, LONGEST_NAME)!r}, but there is no file {there}; "
            problem += "paths are relative to this file"
        elif len(chain) == LONGEST_CHAIN:
            problem = f"this is the {LONGEST_CHAIN}th file that extends another in a row; extend fewer"
        else:
            if real not in documents:
                _read(parent, chain, documents)
            continue
        document.findings.append(document.finding(("extends", index), problem))
    document.findings.sort(key=lambda finding: finding[1:3])
    documents[own] = document
    return document


def _real(path: Path) -> Path | None:
    """The same path however a file is reached; None where there is no file."""
    try:
        return path.resolve() if path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it, links in a circle
        return None
