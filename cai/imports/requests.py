"""Lists of requests: Anthropic's principles for critiques and revisions, and those for judging.

The frame that the published files put around every request ("CritiqueRequest:", "Options:") is taken off, so
that the wording reaches the model as it was meant. Where an entry has another frame, it is kept whole.
"""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue
from typing_extensions import TypedDict  # typing's own is too old for pydantic in Python 3.11

from cai.constitution.principle import ConstitutionFile, Principle
from cai.errors import ConstitutionError
from cai.imports.draft import Draft, Export, Names, draft, lost, made, original_of, shaped, source_of

CRITIQUE, REVISION = ("\n\nCritiqueRequest: ", "\n\nCritique:"), ("\n\nRevisionRequest: ", "\n\nRevision:")
OPTIONS = ("\n", " Options:")
SL, RL = "anthropic-sl", "anthropic-rl"


class Request(TypedDict):
    """One entry of the critique and revision file: several critique requests share one revision request."""

    prompt: list[str]
    edit_request: str


def critique_wording(principle: Principle) -> str:
    """How to ask for a critique by this principle, as a request of its own."""
    own = f"Point out where the assistant's last response does not keep this principle: {principle.statement}"
    return principle.critique or own


def revision_wording(principle: Principle) -> str:
    """How to ask for a revision by this principle, as a request of its own."""
    own = f"Rewrite the assistant's last response so that it keeps this principle: {principle.statement}"
    return principle.revision or own


def read_sl(data: Any) -> Draft:
    """Principles from {id: {prompt: [critique request, …], edit_request}}."""
    names, found = Names(), []
    for key, entry in shaped(dict[str, Request], data).items():
        if not entry["prompt"]:
            raise ConstitutionError(f"{key}/prompt: the list is empty; write a critique request")
        for number, prompt in enumerate(entry["prompt"]):
            one = {**entry, "prompt": [prompt]}
            critique, revision = _cut(prompt, CRITIQUE), _cut(entry["edit_request"], REVISION)
            original: dict[str, Any] = {} if one == _request(critique, revision) else {"entry": one}
            if key != key.strip() or not key:
                original["key"] = key
            found.append(
                made(
                    Principle, f"{key}/prompt/{number}", id=names.new(revision),
                    statement=revision, critique=critique, revision=revision, use=("revise",),
                    source={"format": SL, "at": key.strip() or None, "original": original or None},
                )
            )  # fmt: skip
    return draft(SL, found)


def write_sl(file: ConstitutionFile) -> Export:
    """The inverse of `read_sl`, for the principles that revise; those of one key and revision are one entry."""
    chosen = [principle for principle in file.principles if "revise" in principle.use]
    out: dict[str, Any] = {}
    names = Names()
    for principle in chosen:
        entry = _sl_entry(principle)
        source = source_of(principle, SL)
        key = original_of(principle, SL).get("key", (source and source.at) or principle.id)
        if key in out and {**out[key], "prompt": entry["prompt"]} == entry and source:
            out[key]["prompt"] += entry["prompt"]
        else:
            names.taken |= out.keys()
            out[key if key not in out else names.new(key, whole=True)] = entry
    return Export(out, lost(file, chosen, ("critique", "revision")))


def _sl_entry(principle: Principle) -> dict[str, Any]:
    critique, revision = critique_wording(principle), revision_wording(principle)
    kept = original_of(principle, SL).get("entry")
    if kept is not None:
        same = _cut(kept["prompt"][0], CRITIQUE), _cut(kept["edit_request"], REVISION)
        if same == (critique, revision):
            return {**kept, "prompt": list(kept["prompt"])}
        return {**kept, **_request(critique, revision)}
    return _request(critique, revision)


def read_rl(data: Any) -> Draft:
    """Principles from a list of questions to a judge, each ending in "Options:"."""
    names, found = Names(), []
    for number, entry in enumerate(shaped(list[str], data)):
        question = _cut(entry, OPTIONS)
        plain = entry == _framed(question, OPTIONS)
        found.append(
            made(
                Principle, str(number), id=names.new(question),
                statement=question, judge=question, use=("judge",),
                source={"format": RL, "at": str(number), "original": None if plain else {"entry": entry}},
            )
        )  # fmt: skip
    return draft(RL, found)


def write_rl(file: ConstitutionFile) -> Export:
    """The inverse of `read_rl`, for the principles that judge."""
    chosen = [principle for principle in file.principles if "judge" in principle.use]
    out: list[JsonValue] = []
    for principle in chosen:
        own = f"Choose the assistant response that better keeps this principle: {principle.statement}"
        question = principle.judge or own
        kept = original_of(principle, RL).get("entry")
        same = kept is not None and _cut(kept, OPTIONS) == question
        out.append(kept if same else _framed(question, OPTIONS))
    return Export(out, lost(file, chosen, ("judge",)))


def _request(critique: str, revision: str) -> dict[str, Any]:
    return {"prompt": [_framed(critique, CRITIQUE)], "edit_request": _framed(revision, REVISION)}


def _framed(text: str, frame: tuple[str, str]) -> str:
    return f"{frame[0]}{text}{frame[1]}"


def _cut(text: str, frame: tuple[str, str]) -> str:
    """The text inside its frame, as far as that is there."""
    return text.strip().removeprefix(frame[0].strip()).removesuffix(frame[1].strip()).strip()
