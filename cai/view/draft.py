"""Drafts of a run's constitution: files of their own in `RUN/drafts`, which work where they lie.

A draft begins as the constitution's file with comments and order, its `extends` made to lead from the new place to
the same files; shown and downloaded, they are as in the original, so that the draft can take its place. The original
is never written. Where it is not there any more, a draft begins as what the run itself has kept of it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cai.constitution import Constitution
from cai.constitution.document import Document, Finding, read_document
from cai.constitution.extends import Resolved, resolve
from cai.constitution.principle import KEBAB, Principle
from cai.errors import ConfigError, ConstitutionError
from cai.store import guard, write_bytes
from cai.tryout.scratch import freeze
from cai.view.draft_text import WORDINGS, entry_text, with_entry, with_principle, with_value, with_wordings
from cai.yaml_file import Unreadable, read_text

DRAFTS = "drafts"
KEPT = ".run.yaml"  # the constitution as the run has kept it; no draft has such a name
MOST_NAME = 60  # characters


class Draft(NamedTuple):
    """A draft as it is to be changed. `path`: where it is, or will be, kept; `text`: of that file.

    `origin`: the file that it is a draft of, `original` its text; `found`: all that the draft says now, also by what
    it extends.
    """

    name: str
    path: Path
    text: str
    origin: Path
    original: str
    found: Resolved

    @property
    def saved(self) -> bool:
        """Whether there is such a file yet."""
        return self.path.is_file()


def open_draft(root: Path, constitution_file: str, constitution: Constitution, name: str) -> Draft:
    """A run's draft of this name, or the beginning of one. Raises ConfigError, and ConstitutionError for a broken file.

    `constitution_file`: of the run's config; `constitution`: what the run has kept of it.
    """
    path = draft_path(root, name)
    origin = Path(constitution_file)
    if not origin.is_file():
        origin = root / DRAFTS / KEPT
        if not origin.is_file():
            freeze(constitution, origin)
    original = _text(origin)
    if path.is_file():
        return Draft(name, path, _text(path), origin, original, _usable(resolve(path)))
    found = _usable(resolve(origin))
    return Draft(name, path, _moved(origin, original, path, found.document), origin, original, found)


def draft_path(root: Path, name: str) -> Path:
    """Where a draft is kept. Raises ConfigError for a name that is none, and so for any that leads elsewhere."""
    if not re.fullmatch(KEBAB, name) or len(name) > MOST_NAME:
        raise ConfigError(
            f"draft {name!r}: write up to {MOST_NAME} letters a-z and digits, with single hyphens between"
        )
    return root / DRAFTS / f"{name}.yaml"


def draft_names(root: Path) -> list[str]:
    """The drafts that a run has."""
    found = (path.stem for path in (root / DRAFTS).glob("*.yaml"))
    return sorted(name for name in found if re.fullmatch(KEBAB, name) and len(name) <= MOST_NAME)


def principle_of(draft: Draft, principle: str) -> Principle:
    """A principle as the draft has it. Raises ConfigError where it has none of this id."""
    for defined in draft.found.principles:
        if defined.principle.id == principle:
            return defined.principle
    known = [defined.principle.id for defined in draft.found.principles]
    near = difflib.get_close_matches(principle, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise ConfigError(f"principle {principle!r}: not in {draft.origin}; {hint}")


def principle_text(draft: Draft, principle: str) -> str | None:
    """A principle as the draft's YAML writes it; None where it stands elsewhere, or within brackets."""
    number = _number(draft.path, draft.text, principle)
    return None if number is None else entry_text(draft.path, draft.text, number)


def reworded(draft: Draft, principle: str, wordings: Mapping[str, str]) -> str:
    """The text of a draft with other wordings of a principle; an empty one takes the principle's own away.

    Raises ConstitutionError, `file:line:column: what; fix`, where the draft would not be valid.
    """
    text, number = _own(draft, principle)
    clean = {
        name: wordings[name].replace("\r\n", "\n").strip() or None for name in WORDINGS if name in wordings
    }
    return _checked(draft, with_wordings(draft.path, text, number, clean))


def rewritten(draft: Draft, principle: str, entry: str) -> str:
    """The text of a draft with a principle's YAML written anew. Raises ConstitutionError as `reworded` does."""
    text, number = _own(draft, principle)
    return _checked(draft, with_entry(draft.path, text, number, entry.replace("\r\n", "\n")))


def save_draft(draft: Draft, text: str) -> list[Finding]:
    """Write a draft, and return what is wrong or looks wrong with it now. Raises StoreError."""
    from cai.constitution.lint import lint

    write_bytes(draft.path, text.encode())
    return lint(draft.path)


def shown_text(draft: Draft) -> str:
    """The draft as it can take the place of the original: with `extends` as that file has them."""
    old = read_document(draft.origin, draft.original).file
    text, new = draft.text, read_document(draft.path, draft.text).file
    if old is None or new is None or len(old.extends) != len(new.extends):
        return text
    for number, (name, other) in enumerate(zip(old.extends, new.extends, strict=True)):
        if name != other:
            text = with_value(draft.path, text, ("extends", number), name)
    return text


def difference(draft: Draft) -> list[tuple[str, str]]:
    """How the draft differs from the original, line by line: (`old`, `new`, `place` or ``, the line)."""
    kinds = {"-": "old", "+": "new", "@": "place"}
    lines = difflib.unified_diff(draft.original.splitlines(), shown_text(draft).splitlines(), lineterm="")
    return [(kinds.get(line[:1], ""), line) for line in list(lines)[2:]]


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except Unreadable as error:
        raise ConstitutionError(f"{path}:{error.line}:{error.column}: {error}") from error


def _usable(found: Resolved) -> Resolved:
    """Raises ConstitutionError for a file that no draft can begin with."""
    _ = found.file
    return found


def _moved(origin: Path, text: str, path: Path, document: Document) -> str:
    """The text of a file as it is at another place: its `extends` lead from there to the same files."""
    for number, name in enumerate(document.file.extends if document.file else ()):
        there = os.path.relpath((origin.parent / name).resolve(), path.parent.resolve())
        if there != name:
            text = with_value(path, text, ("extends", number), there)
    return text


def _number(path: Path, text: str, principle: str) -> int | None:
    """Which of the file's own principles this is, from 0; None for one that it inherits."""
    file = read_document(path, text).file
    ids = [one.id for one in file.principles] if file else []
    return ids.index(principle) if principle in ids else None


def _own(draft: Draft, principle: str) -> tuple[str, int]:
    """The draft's text with the principle among its own, and which of these it is; an inherited one is copied."""
    principle_of(draft, principle)
    number = _number(draft.path, draft.text, principle)
    if number is not None:
        return draft.text, number
    defined = next(one for one in draft.found.principles if one.principle.id == principle)
    entry: Mapping[str, Any] = defined.document.read.data["principles"][defined.number]
    text = with_principle(draft.path, draft.text, entry)
    number = _number(draft.path, text, principle)
    assert number is not None
    return text, number


def _checked(draft: Draft, text: str) -> str:
    """The text, where a constitution can have it."""
    found = read_document(draft.path, text)
    if found.findings:
        raise ConstitutionError(str(found.findings[0]))
    return text


def read_draft(draft: Draft) -> bytes:
    """The bytes of a draft that is saved, as it can take the place of the original. Raises StoreError."""
    with guard(draft.path):
        draft.path.stat()
    return shown_text(draft).encode()
