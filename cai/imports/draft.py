"""What every format turns into: a draft constitution, and what of the source it could not hold, counted.

A source is checked before anything is made of it. What is wrong is a ConstitutionError that names the place
inside the source; `cai.imports` puts the file's name before it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from cai.constitution.principle import ConstitutionFile, Principle, Source
from cai.errors import ConstitutionError
from cai.rows import Message
from cai.store import explain

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
MOST_PRINCIPLES = 10_000
LONG_TITLE = 6  # words of an id that is made from a sentence
# said in every request, and so no name for any
_FILLERS = frozenset(
    re.findall(
        r"\w+",
        "a all also am an and any anything are as assistant assistants be been by can choose "
        "compare content could did discuss especially for from have human i identify if in "
        "including into is it its last less may more most my new of on one options or please "
        "possible preceding precedings provide respond response responses revise revision rewrite "
        "said say saying so some specific such than that the there these this to version ways was "
        "way were what whether which who will with would write your ",
    )
)
# what a format may or may not hold of a principle
_FIELDS = ("critique", "revision", "judge", "weight", "priority", "applies_to", "examples", "tests")


@dataclass
class Names:
    """Ids for principles: kebab-case, each given once."""

    taken: set[str] = field(default_factory=set)
    given: Counter[str] = field(default_factory=Counter)

    def new(self, title: str, *, whole: bool = False) -> str:
        """An id from a title (all of its words where `whole`), with a number behind it where it is taken.

        Raises ConstitutionError where there are more than any constitution has.
        """
        if len(self.taken) >= MOST_PRINCIPLES:
            raise ConstitutionError(f"there are more than {MOST_PRINCIPLES:,} principles; split the file")
        plain = unicodedata.normalize("NFKD", title.lower().replace("’", "'"))
        words = re.findall(r"[a-z0-9]+", re.sub(r"'s\b|'", "", plain.encode("ascii", "ignore").decode()))
        telling = words if whole else [word for word in words if word not in _FILLERS][:LONG_TITLE]
        base = "-".join(telling or words[:LONG_TITLE] or ["principle"])
        name = base
        while name in self.taken:
            self.given[base] += 1
            name = f"{base}-{self.given[base] + 1}"
        self.taken.add(name)
        return name


class Draft(NamedTuple):
    """An imported constitution, what was left out of it (what → how many), and what else there was to count."""

    file: ConstitutionFile
    left_out: dict[str, int]
    counts: dict[str, int] = {}  # noqa: RUF012 - never changed: what the format alone can count


class Export(NamedTuple):
    """A constitution in another format (a JSON value, or a list of them a line each), and what was left out."""

    data: JsonValue
    left_out: dict[str, int]


def shaped(kind: type[T], data: Any) -> T:
    """`data`, where it has the shape of `kind`. Raises ConstitutionError with the place and what is wrong there."""
    try:
        TypeAdapter(kind).validate_python(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = "/".join(map(str, first["loc"])) or "the top level"
        raise ConstitutionError(
            f"{place}: {first['msg']}; mend it, or name the format with --format"
        ) from None
    found: T = data  # as it is: validation would drop unknown keys, which an export gives back
    return found


def made(kind: type[M], place: str, **fields: Any) -> M:
    """A model from parts of the source. Raises ConstitutionError with the place for text that it refuses."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise ConstitutionError(
            f"{place}: {explain(error)}; write a text there, or remove the entry"
        ) from error


def draft(
    format: str,
    principles: Iterable[Principle],
    original: JsonValue = None,
    left_out: Mapping[str, int] | None = None,
) -> Draft:
    """The draft of a whole file; its name and place are filled in by `cai.imports`. Refuses an empty one."""
    found = tuple(principles)
    if not found:
        raise ConstitutionError("there is nothing to import; give a file with at least one entry")
    source = Source(format=format, original=original)
    file = ConstitutionFile(schema=1, name=format, version="draft", principles=found, source=source)
    return Draft(file, {what: count for what, count in (left_out or {}).items() if count})


def source_of(subject: Principle | ConstitutionFile, format: str) -> Source | None:
    """Its source, where that is of this format."""
    return subject.source if subject.source and subject.source.format == format else None


def original_of(subject: Principle | ConstitutionFile, format: str) -> dict[str, Any]:
    """What an import from this format has put aside for it, by name."""
    found = source_of(subject, format)
    return found.original if found and isinstance(found.original, dict) else {}


def lost(file: ConstitutionFile, exported: Sequence[Principle], holds: Iterable[str]) -> dict[str, int]:
    """What a format that holds only `holds` of each exported principle leaves out, by field.

    A statement is held by a wording that is made of it, or is the same.
    """
    counts = {"principles": len(file.principles) - len(exported)}
    for name in _FIELDS:
        if name not in holds:
            default = Principle.model_fields[name].default
            values = [getattr(principle, name) for principle in exported]
            lists = name in ("examples", "tests")
            counts[name] = sum(len(value) if lists else value != default for value in values)
    if "statement" not in holds:
        worded = [name for name in ("critique", "revision", "judge") if name in holds]
        counts["statement"] = sum(
            all(getattr(p, name) not in (None, p.statement) for name in worded) for p in exported
        )
    return {what: count for what, count in counts.items() if count}


def merged(turns: Iterable[Message]) -> tuple[Message, ...]:
    """Neighbours of one role as one turn."""
    found: list[Message] = []
    for turn in turns:
        if found and found[-1].role == turn.role:
            turn = Message(role=turn.role, content=f"{found.pop().content}\n\n{turn.content}")
        found.append(turn)
    return tuple(found)
