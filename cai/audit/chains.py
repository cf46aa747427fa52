"""Chains of reply, critique and revision, from a run or from the files in which others publish them.

Read are rows of a run's revise stage, Anthropic's samples (`initial_response`, `cst`), Hugging Face's columns
(`init_response`, `critic_response`, `revision_response`), and rows with columns for the first reply, the critique and
the revision, one each or a list of rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from cai.errors import ParseError
from cai.parse import parse_critique
from cai.rows import Revision

PROMPT = ("init_prompt", "rl_prompt", "prompt", "question", "instruction", "input", "messages")
INITIAL = (
    "initial_response", "init_response", "initial", "initial_reply", "original_response", "original", "before",
    "response", "reply", "answer", "completion", "draft",
)  # fmt: skip
CRITIQUE = ("critique", "critic_response", "critiques", "critique_response", "feedback")
REVISION = (
    "revision", "revision_response", "revised_response", "revised", "revisions", "revised_reply", "final",
    "final_response", "after", "rewrite",
)  # fmt: skip
ROUNDS = ("cst", "rounds", "revisions", "steps")
TEXT = ("sample", "text", "content", "value", "response")  # where an object keeps its text
WANTED = "a first reply and a revision (as in initial_response, critique, revision)"


class Step(NamedTuple):
    """One revision. `violated`: what its critique decided, None where that is not to be read."""

    id: str
    before: str
    critique: str
    after: str
    violated: bool | None


class Chain(NamedTuple):
    """A reply and its revisions. `last`: what the last critique decided, of which text; None: not to be read.

    `reread`: the last critique was of a text that had been revised.
    """

    id: str
    prompt: str
    initial: str
    steps: tuple[Step, ...]
    final: str
    last: bool | None
    reread: bool


def chain_of(row: Mapping[str, Any], id: str) -> Chain | None:
    """The chain in a row of a file; None where there is none."""
    if isinstance(row.get("reply"), dict) and isinstance(row.get("rounds"), list):
        try:
            return of_revision(Revision.model_validate(row))
        except ValidationError:
            return None
    initial = _first(row, INITIAL)
    if initial is None:
        return None
    rounds = next((row[name] for name in ROUNDS if _is_rounds(row.get(name))), None)
    if rounds is None:
        revised, critiques = _texts(row, REVISION), _texts(row, CRITIQUE)
        rounds = [
            {"critique": critiques[n] if n < len(critiques) else "", "revision": text}
            for n, text in enumerate(revised)
        ]
    parts = [(_first(one, CRITIQUE) or "", _first(one, REVISION)) for one in rounds]
    if not any(revision is not None for _, revision in parts):
        return None
    verdicts = [_verdict(critique) for critique, _ in parts]
    return _chain(id, _first(row, PROMPT) or "", initial, parts, verdicts)


def of_revision(row: Revision) -> Chain:
    """The chain in a row of a run."""
    asked = "\n\n".join(turn.content for turn in row.reply.prompt.messages)
    parts = [(done.critique, done.revision) for done in row.rounds]
    return _chain(row.id, asked, row.reply.text, parts, [done.violated for done in row.rounds])


def _chain(
    id: str,
    prompt: str,
    initial: str,
    parts: Sequence[tuple[str, str | None]],
    verdicts: Sequence[bool | None],
) -> Chain:
    steps: list[Step] = []
    text = initial
    reread = False
    for number, ((critique, revision), violated) in enumerate(zip(parts, verdicts, strict=True), 1):
        reread = bool(steps)
        if revision is not None:
            name = f"{id}#{number}" if len(parts) > 1 else id
            steps.append(Step(name, text, critique, revision, violated))
            text = revision
    return Chain(id, prompt, initial, tuple(steps), text, verdicts[-1] if verdicts else None, reread)


def _verdict(critique: str) -> bool | None:
    """What a critique in the pipeline's own form decided."""
    try:
        return parse_critique(critique)[1]
    except ParseError:
        return None


def _is_rounds(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and _first(one, REVISION + CRITIQUE) is not None for one in value)
    )


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((text for name in names if (text := _text(row.get(name))) is not None), None)


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """All texts of the first column that has some."""
    for name in names:
        value = row.get(name)
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return list(value)
        if (text := _text(value)) is not None:
            return [text]
    return []


def _text(value: Any) -> str | None:
    """A text as it is, in an object, or the last of a list of messages."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = next((value[name] for name in TEXT if isinstance(value.get(name), str)), None)
    return value if isinstance(value, str) else None
