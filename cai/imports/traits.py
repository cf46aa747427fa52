"""Character traits (OpenCharacterTraining): a first-person trait and questions that bring it out, a line each.

A trait is a statement. The questions have no replies to compare, so they are no tests: they are kept as the
principle's source, from where they can be taken as prompts.
"""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import JsonValue
from typing_extensions import TypedDict  # typing's own is too old for pydantic in Python 3.11

from cai.constitution.principle import ConstitutionFile, Principle
from cai.imports.draft import Draft, Export, Names, draft, lost, made, original_of, shaped

OCT = "oct"


class Trait(TypedDict):
    """One line."""

    trait: str
    questions: NotRequired[list[str]]
    additional_questions: NotRequired[list[str]]


def read_oct(data: Any) -> Draft:
    """Principles from lines of {trait, questions, additional_questions}."""
    names, found = Names(), []
    for number, entry in enumerate(shaped(list[Trait], data)):
        statement = entry["trait"].strip()
        rest = {key: value for key, value in entry.items() if key != "trait" or value != statement}
        found.append(
            made(
                Principle, f"{number}/trait", id=names.new(statement), statement=statement,
                source={"format": OCT, "at": str(number), "original": rest or None},
            )
        )  # fmt: skip
    return draft(OCT, found)


def write_oct(file: ConstitutionFile) -> Export:
    """The inverse of `read_oct`, for every principle; without questions where it was not imported with some."""
    out: list[JsonValue] = []
    for principle in file.principles:
        kept = dict(original_of(principle, OCT))
        if str(kept.get("trait", "")).strip() != principle.statement:
            kept["trait"] = principle.statement
        out.append({"trait": kept.pop("trait"), **kept})
    return Export(out, lost(file, file.principles, ("statement",)))
