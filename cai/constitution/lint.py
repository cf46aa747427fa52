"""Everything that is wrong with a constitution, or looks wrong.

Errors keep a constitution from being loaded; `load_constitution` raises the first of them. Warnings are only
told by `lint`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from cai.config import SourceConfig
from cai.constitution.document import Finding
from cai.constitution.extends import Defined, Resolved, resolve
from cai.constitution.principle import Principle
from cai.constitution.wording import find_alike, is_vague

LONG_STATEMENT = 400  # characters; a longer one is several principles, and small models lose its end
_PLACEHOLDER = re.compile(r"\{[^{}\n]*\}|\b(?:TODO|FIXME|TBD|XXX)\b")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d*)(?:\.\d*)?|[-+]?\.\d+")


def lint(path: str | Path, sources: Sequence[SourceConfig] | None = None) -> list[Finding]:
    """All that is wrong with a constitution: its errors, those of what it extends, its own warnings.

    `sources`: a run's prompt sources; with them, principles whose tags no prompt has are told as well. Raises
    ConfigError where they cannot be read.
    """
    found = resolve(Path(path))
    warnings = sorted(_warnings(found))
    return found.findings + warnings + (sorted(_unmet(found, sources)) if sources is not None else [])


def _warnings(found: Resolved) -> Iterator[Finding]:
    """What may be meant but rarely is, for the principles that the file itself holds."""
    root = found.document
    own = [defined for defined in found.principles if defined.document is root]
    for defined in own:
        for field, message in _principle_warnings(defined.principle):
            yield root.finding(("principles", defined.number, field), message, warning=True)
        yield from _numbers(defined)
    yield from _repetitions(found, own)
    yield from _priorities(found)
    for use in ("revise", "judge"):
        if own and not any(use in defined.principle.use for defined in found.principles):
            problem = f"no principle is used to {use}; add {use!r} to the 'use' of one"
            yield root.finding(("principles",), problem, warning=True, key=True)


def _principle_warnings(principle: Principle) -> Iterator[tuple[str, str]]:
    if len(principle.statement) > LONG_STATEMENT:
        size = f"{len(principle.statement)} characters"
        yield "statement", f"the statement has {size} (over {LONG_STATEMENT}); split it into several"
    if _reads_statement(principle) and is_vague(principle.statement):
        problem = "the statement names nothing that a reply does or does not do"
        yield "statement", f"{problem}; say what a judge should look for"
    for field in ("statement", "critique", "revision", "judge"):
        if match := _PLACEHOLDER.search(getattr(principle, field) or ""):
            yield field, f"{match[0]!r} reaches the model as it stands; replace it by a text"
    unread = [name for name in ("critique", "revision", "examples") if "revise" not in principle.use]
    unread += ["judge"] if "judge" not in principle.use else []
    for name in unread:
        if getattr(principle, name):
            yield name, f"{name!r} is never read, as 'use' leaves out its stage; remove it or extend 'use'"


def _reads_statement(principle: Principle) -> bool:
    """Whether any stage shows the statement to a model, and not a wording of its own."""
    return ("revise" in principle.use and not (principle.critique and principle.revision)) or (
        "judge" in principle.use and not principle.judge
    )


def _numbers(defined: Defined) -> Iterator[Finding]:
    """Numbers that YAML reads in a way of its own: 010 is 8, 1_000 is 1000, 1:30 is 90."""
    for field in ("weight", "priority"):
        loc = ("principles", defined.number, field)
        node, there = defined.document.node(loc)
        if there and isinstance(node, yaml.ScalarNode) and not _NUMBER.fullmatch(node.value):
            value = getattr(defined.principle, field)
            problem = f"YAML reads {node.value} as {value:g}; write {value:g} if that is meant"
            yield defined.document.finding(loc, problem, warning=True)


def _repetitions(found: Resolved, own: list[Defined]) -> Iterator[Finding]:
    """Statements that contradict or nearly repeat another one, which may be inherited."""
    ordered = [d for d in found.principles if d.document is not found.document]
    start = len(ordered)
    ordered += own
    for later, earlier, opposite in find_alike([d.principle.statement for d in ordered], start):
        other = ordered[earlier].principle.id
        message = f"this is nearly the statement of {other!r}; merge them or tell them apart"
        if opposite:
            message = f"this says the opposite of {other!r}; keep one, or say when which one holds"
        yield found.document.finding(
            ("principles", ordered[later].number, "statement"), message, warning=True
        )


def _priorities(found: Resolved) -> Iterator[Finding]:
    """Principles that lose or change their authority because a later file, or a later parent, replaces them."""
    for principle, document, number, earlier in found.principles:
        if earlier is None or earlier.principle.priority == principle.priority:
            continue
        place = f"{earlier.document.path.name}:{earlier.line}"
        problem = f"{principle.id!r} has priority {principle.priority} here and {earlier.principle.priority}"
        problem += f" in {place}, which it replaces; a higher one wins where verdicts conflict"
        if document is found.document:
            loc = ("principles", number)
            written = document.node((*loc, "priority"))[1]
            fix = "write the same one if this is not meant" if written else "write the one that is meant"
            yield document.finding((*loc, "priority" if written else "id"), f"{problem}; {fix}", warning=True)
        elif earlier.document is not found.document:
            problem = problem.replace(" here ", f" in {document.path.name} ")
            fix = "change their order, or write the principle here as it is meant"
            yield found.document.finding(("extends",), f"{problem}; {fix}", warning=True)


def _unmet(found: Resolved, sources: Sequence[SourceConfig]) -> Iterator[Finding]:
    """Principles for which no prompt has a tag, inherited ones included."""
    from cai.constitution.prompt_tags import prompt_tags

    wanted = {tag for defined in found.principles for tag in defined.principle.applies_to}
    tags = prompt_tags(sources, wanted) if wanted else set()
    for principle, document, number, _ in found.principles:
        if not principle.applies_to or not tags.isdisjoint(principle.applies_to):
            continue
        asked = " or ".join(repr(tag) for tag in principle.applies_to)
        near = [m for tag in principle.applies_to for m in difflib.get_close_matches(tag, tags, n=1)]
        known = ", ".join(repr(tag) for tag in sorted(tags)[:5]) or "none"
        hint = f"did you mean {near[0]!r}?" if near else f"the prompts' tags: {known}"
        problem = f"no prompt is tagged {asked}, so none meets this principle; {hint}"
        yield document.finding(("principles", number, "applies_to"), problem, warning=True)
