"""Few-shot chains of reply, critique and revision: Anthropic's transcripts, llm-swarm's and NeMo's chats.

A chain belongs to no principle by name, but it asks for its critique and its revision in words. So chains that
ask in the same words become the examples of one principle that has these wordings. Each keeps its number, and
the whole chain where its plain form would not be the same, so that an export puts them back where they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import JsonValue

from cai.constitution.principle import ConstitutionFile, Example, Principle
from cai.errors import ConstitutionError
from cai.imports.draft import Draft, Export, Names, draft, lost, made, original_of, shaped
from cai.imports.requests import critique_wording, revision_wording
from cai.rows import Message

SL_SHOTS = "anthropic-sl-shots"
NEXT = "\n\nHuman:"  # most of the published transcripts end where the next conversation would begin
_MARKER = re.compile(r"\n\n(Human|Assistant|CritiqueRequest|Critique|RevisionRequest|Revision):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_TAIL = ("CritiqueRequest", "Critique", "RevisionRequest", "Revision")
_SHAPE = "wanted turns that end in a reply, then a critique request, critique, revision request and revision"


class Chain(NamedTuple):
    """One few-shot chain: how critique and revision are asked for, and the example."""

    critique: str
    revision: str
    example: Example


Wording = tuple[str, str]  # how the critique and the revision are asked for


class Group(NamedTuple):
    """Chains that ask in the same words."""

    examples: list[Example]
    marks: list[dict[str, JsonValue]]


Parse = Callable[[Any, str], Chain]
Render = Callable[[Chain], Any]


def chain(turns: list[dict[str, str]], tail: tuple[str, str, str, str], place: str) -> Chain:
    """A chain from its turns, the last one the reply. A revision that changes nothing finds no violation."""
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise ConstitutionError(f"{place}: {_SHAPE}; mend or remove it")
    asked, critique, wanted, revision = (text.strip() for text in tail)
    if not asked or not wanted:
        raise ConstitutionError(f"{place}: a request is empty; write it")
    changed = revision != turns[-1]["content"].strip()
    if not revision:
        raise ConstitutionError(f"{place}: the revision is empty; write it")
    example = made(
        Example, place, conversation=turns[:-1], reply=turns[-1]["content"], critique=critique,
        violated=changed, revision=revision if changed else None,
    )  # fmt: skip
    return Chain(asked, wanted, example)


def grouped(raw: Iterable[Any], place: str, parse: Parse, render: Render) -> dict[Wording, Group]:
    """Chains by the words that they ask in, in order of appearance; a mark says where each one stood."""
    groups: dict[Wording, Group] = {}
    for number, item in enumerate(raw):
        found = parse(item, f"{place}{number}")
        group = groups.setdefault((found.critique, found.revision), Group([], []))
        group.examples.append(found.example)
        group.marks.append({"at": number} if render(found) == item else {"at": number, "chain": item})
    return groups


def principle_of(format: str, place: str, wording: Wording, group: Group, names: Names) -> Principle:
    """The principle that chains ask about in these words, with the chains as its examples."""
    critique, revision = wording
    at = f"{place}{group.marks[0]['at']}"
    return made(
        Principle, at, id=names.new(revision), statement=revision, critique=critique, revision=revision,
        use=("revise",), examples=group.examples,
        source={"format": format, "at": at, "original": {"examples": group.marks}},
    )  # fmt: skip


def chains_of(
    format: str, principles: Iterable[Principle], parse: Parse, render: Render
) -> tuple[list[JsonValue], int]:
    """The chains of all principles in their old order, new ones last; and how many examples make no chain."""
    found: list[tuple[float, JsonValue]] = []
    unfit = 0
    for principle in principles:
        marks: list[Mapping[str, Any]] = original_of(principle, format).get("examples", [])
        known = len(marks) == len(principle.examples)
        for number, example in enumerate(principle.examples):
            mark = marks[number] if known else {}
            plain = Chain(critique_wording(principle), revision_wording(principle), example)
            if "chain" in mark and parse(mark["chain"], "") == plain:
                found.append((mark["at"], mark["chain"]))
            elif example.violated and example.revision is None:
                unfit += 1
            else:
                found.append((mark.get("at", float("inf")), render(plain)))
    return [item for _, item in sorted(found, key=lambda pair: pair[0])], unfit


def read_sl_shots(data: Any) -> Draft:
    """Principles with examples from a list of transcripts, cut at their markers and nowhere else."""
    raw = shaped(list[str], data)
    groups, names = grouped(raw, "", _parse_text, _render_text), Names()
    return draft(SL_SHOTS, (principle_of(SL_SHOTS, "", *group, names) for group in groups.items()))


def write_sl_shots(file: ConstitutionFile) -> Export:
    """The inverse of `read_sl_shots`, for all principles that have examples."""
    return exported(SL_SHOTS, file, _parse_text, _render_text)


def exported(format: str, file: ConstitutionFile, parse: Parse, render: Render) -> Export:
    """The chains of a constitution as a list, and what that leaves out of it."""
    chosen = [principle for principle in file.principles if principle.examples]
    data, unfit = chains_of(format, chosen, parse, render)
    left_out = lost(file, chosen, ("critique", "revision", "examples"))
    return Export(data, left_out | ({"examples without a revision": unfit} if unfit else {}))


def cut(text: str, place: str) -> list[tuple[str, str]]:
    """A transcript as (marker, text) pairs; refuses text before the first marker."""
    markers = list(_MARKER.finditer(text))
    if not markers or text[: markers[0].start()].strip():
        raise ConstitutionError(f"{place}: a transcript starts with a blank line and 'Human:'; mend it")
    ends = [*(marker.start() for marker in markers[1:]), len(text)]
    return [(marker[1], text[marker.end() : end].strip()) for marker, end in zip(markers, ends, strict=True)]


def _parse_text(text: str, place: str) -> Chain:
    parts = cut(text.removesuffix(NEXT), place)
    turns, tail = parts[:-4], parts[-4:]
    if tuple(marker for marker, _ in tail) != _TAIL or any(marker not in _ROLES for marker, _ in turns):
        raise ConstitutionError(f"{place}: {_SHAPE}; mend or remove it")
    messages = [{"role": _ROLES[marker], "content": content} for marker, content in turns]
    return chain(messages, (tail[0][1], tail[1][1], tail[2][1], tail[3][1]), place)


def _render_text(found: Chain) -> str:
    example = found.example
    turns = (*example.conversation, Message(role="assistant", content=example.reply))
    ending = (found.critique, example.critique, found.revision, example.revision or example.reply)
    return (
        transcript(turns)
        + "".join(f"\n\n{marker}: {text}" for marker, text in zip(_TAIL, ending, strict=True))
        + NEXT
    )


def transcript(turns: Iterable[Message]) -> str:
    """Turns between "Human:" and "Assistant:" markers; a system turn counts as the human's."""
    return "".join(
        f"\n\n{'Assistant' if turn.role == 'assistant' else 'Human'}: {turn.content}" for turn in turns
    )
