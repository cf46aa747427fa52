"""What pydantic refused of a constitution file, in the words of the file: what is wrong, and the fix."""

from __future__ import annotations

import datetime
import difflib
import re
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from cai.constitution.principle import ConstitutionFile, Example, Principle, PrincipleTest, Source
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


def known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the section that holds `loc`."""
    section = _SECTIONS[next((part for part in reversed(loc[:-1]) if isinstance(part, str)), None)]
    return [field.alias or name for name, field in section.model_fields.items()]


def near_keys(loc: tuple[int | str, ...], cutoff: float = 0.6) -> list[str]:
    """Known keys that a misspelt one at `loc` may stand for, the nearest first."""
    return difflib.get_close_matches(str(loc[-1]), known_keys(loc), cutoff=cutoff)


def explain(error: ErrorDetails, node: yaml.Node | None) -> str:
    """What is wrong with one value, and the fix. `node`: where it is written, where that is known."""
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
        if value is None or not isinstance(node, yaml.ScalarNode):
            return f"{name!r} must be a text (got {shown}); write a text"
        return (
            f'{name!r} must be a text, and YAML reads {node.value} as {read_as(value)}; write "{node.value}"'
        )
    fixes = {
        "string_too_short": f"{name!r} is empty; write a text",
        "greater_than": f"{name!r} must be above 0 (got {shown}); raise it",
        "tuple_type": f"{name!r} must be a list (got {shown}); write '- …' lines below it",
        "too_short": f"{name!r} must not be empty; write at least one entry, or remove it",
        "model_type": f"an entry of {name!r} must be a mapping (got {shown}); write 'key: value' lines",
    }
    return fixes.get(kind) or f"{name!r} is not valid (got {shown}): {error['msg']}; change it"


def read_as(value: Any) -> str:
    """What YAML made of a text that was not quoted."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date):
        return "a date"
    return f"the number {_shown(value)}" if isinstance(value, int | float) else _shown(value)


def _shown(value: Any) -> str:
    """A value as the user may have written it, cut to a readable length."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
