"""Chats of {role, content}: llm-swarm's constitution with its few-shot chats, and NeMo-Aligner's samples.

A chat is a chain of `cai.imports.chains`: turns up to a reply, then critique request, critique, revision
request and revision.
"""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import JsonValue
from typing_extensions import TypedDict  # typing's own is too old for pydantic in Python 3.11

from cai.constitution.principle import ConstitutionFile, Principle
from cai.errors import ConstitutionError
from cai.imports.chains import Chain, Group, chain, chains_of, exported, grouped, principle_of
from cai.imports.draft import Draft, Export, Names, draft, lost, made, original_of, shaped, source_of
from cai.imports.requests import critique_wording, revision_wording

HF, NEMO = "hf", "nemo"
_CHATS = "system_chat"


class Turn(TypedDict):
    """One message."""

    role: str
    content: str


class Wording(TypedDict):
    """One principle of llm-swarm's file."""

    critic: str
    revision: str


class Swarm(TypedDict):
    """llm-swarm's file."""

    constitutions: list[Wording]
    system_chat: NotRequired[list[list[Turn]]]


class Samples(TypedDict):
    """NeMo-Aligner's file."""

    samples: list[list[Turn]]


def read_hf(data: Any) -> Draft:
    """Principles from {constitutions, system_chat}; a chat goes to the first principle in whose words it asks."""
    found = shaped(Swarm, data)
    names = Names()
    raw = found.get("system_chat", [])
    chats = grouped(raw, f"{_CHATS}/", _parse, _render)
    principles = []
    for number, entry in enumerate(found["constitutions"]):
        critique, revision = entry["critic"].strip(), entry["revision"].strip()
        examples, marks = chats.pop((critique, revision), Group([], []))
        original: dict[str, Any] = {"examples": marks} if marks else {}
        if entry != {"critic": critique, "revision": revision}:
            original["entry"] = {**entry}
        at = f"constitutions/{number}"
        principles.append(
            made(
                Principle, at, id=names.new(revision), statement=revision,
                critique=critique, revision=revision, use=("revise",), examples=examples,
                source={"format": HF, "at": at, "original": original or None},
            )
        )  # fmt: skip
    principles += [principle_of(HF, f"{_CHATS}/", *chat, names) for chat in chats.items()]
    rest = {key: value for key, value in data.items() if key not in ("constitutions", _CHATS)}
    if _CHATS in data and not data[_CHATS]:
        rest[_CHATS] = []
    return draft(HF, principles, rest or None)


def write_hf(file: ConstitutionFile) -> Export:
    """The inverse of `read_hf`, for the principles that revise, with all of their examples as chats."""
    chosen = [principle for principle in file.principles if "revise" in principle.use]
    listed: list[JsonValue] = [_entry(principle) for principle in chosen if not _only_chats(principle)]
    chats, unfit = chains_of(HF, chosen, _parse, _render)
    data: dict[str, JsonValue] = {**original_of(file, HF), "constitutions": listed}
    if chats or source_of(file, HF) is None:
        data[_CHATS] = chats
    left_out = lost(file, chosen, ("critique", "revision", "examples"))
    return Export(data, left_out | ({"examples without a revision": unfit} if unfit else {}))


def _only_chats(principle: Principle) -> bool:
    source = source_of(principle, HF)
    return source is not None and (source.at or "").startswith(_CHATS)


def _entry(principle: Principle) -> dict[str, Any]:
    plain = {"critic": critique_wording(principle), "revision": revision_wording(principle)}
    kept: dict[str, Any] = original_of(principle, HF).get("entry", {})
    same = all(kept[key].strip() == plain[key] for key in plain if key in kept)
    return {**plain, **kept} if same else {**kept, **plain}


def read_nemo(data: Any) -> Draft:
    """Principles with examples from {samples: [[{role, content} × 6 or more]]}."""
    raw = shaped(Samples, data)["samples"]
    rest = {key: value for key, value in data.items() if key != "samples"}
    groups, names = grouped(raw, "samples/", _parse, _render_capital), Names()
    found = (principle_of(NEMO, "samples/", *group, names) for group in groups.items())
    return draft(NEMO, found, rest or None)


def write_nemo(file: ConstitutionFile) -> Export:
    """The inverse of `read_nemo`, for all principles that have examples."""
    found = exported(NEMO, file, _parse, _render_capital)
    return Export({**original_of(file, NEMO), "samples": found.data}, found.left_out)


def _parse(chat: list[Turn], place: str) -> Chain:
    turns = [{"role": turn["role"].lower(), "content": turn["content"]} for turn in chat]
    roles = [turn["role"] for turn in turns]
    if len(turns) < 6 or roles[-4:] != ["user", "assistant"] * 2:
        problem = (
            "wanted turns that end in a reply, then critique request, critique, revision request, revision"
        )
        raise ConstitutionError(f"{place}: {problem}; mend or remove it")
    tail = [turn["content"] for turn in turns[-4:]]
    return chain(turns[:-4], (tail[0], tail[1], tail[2], tail[3]), place)


def _render(found: Chain) -> list[dict[str, str]]:
    example = found.example
    turns = [{"role": str(turn.role), "content": turn.content} for turn in example.conversation]
    texts = (found.critique, example.critique, found.revision, example.revision or example.reply)
    roles = ("user", "assistant", "user", "assistant")
    ending = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return [*turns, {"role": "assistant", "content": example.reply}, *ending]


def _render_capital(found: Chain) -> list[dict[str, str]]:
    return [{**turn, "role": turn["role"].capitalize()} for turn in _render(found)]
