"""Few-shot preferences without a principle: a prompt with better and worse replies, or two options and reasons.

They say which reply is better and not why, so they become the tests of one principle whose statement is left
to write. Entries that the tests alone would not give back (several replies, reasons) are kept whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue
from typing_extensions import TypedDict  # typing's own is too old for pydantic in Python 3.11

from cai.constitution.principle import ConstitutionFile, Principle, PrincipleTest
from cai.errors import ConstitutionError
from cai.imports.chains import cut, transcript
from cai.imports.draft import Draft, Export, Names, draft, lost, made, original_of, shaped
from cai.rows import Message

RL_SHOTS, RL_REASONS = "anthropic-rl-shots", "anthropic-rl-cot-shots"
STATEMENT = "TODO: say in one sentence what the better replies below have in common."
_REPLY = "\n\nAssistant:"
MOST_TESTS = 10_000  # of a file: few replies make very many pairs
_HEAD = re.compile(r"\s*+Human: [^\n]*\n\n(?=H:)")
_CUTS = ("\n\n{}\n (A) [[[", "]]]\n (B) [[[", "]]]\n\nAssistant:")
_ANSWER = re.compile(r"\(([AB])\)\s*")
_SPEAKER = re.compile(r"(?:\A|\n\n)(H|A):")


class Preference(TypedDict):
    """One entry of the plain file."""

    prompt: str
    corrects: list[str]
    incorrects: list[str]


class Reasoned(TypedDict):
    """One entry of the file with reasons."""

    prompt: str


Parse = Callable[[Any, str], list[PrincipleTest]]


def read_rl_shots(data: Any) -> Draft:
    """A principle with tests from [{prompt, corrects, incorrects}]: every correct reply against every other."""
    return _read(RL_SHOTS, shaped(list[Preference], data), _pairs)


def write_rl_shots(file: ConstitutionFile) -> Export:
    """The inverse of `read_rl_shots`, for all principles that have tests."""
    return _write(RL_SHOTS, file, _pairs, _entry)


def read_rl_reasons(data: Any) -> Draft:
    """A principle with tests from [{prompt}], each with two options, reasons and the answer."""
    return _read(RL_REASONS, shaped(list[Reasoned], data), _options)


def write_rl_reasons(file: ConstitutionFile) -> Export:
    """The inverse of `read_rl_reasons`; tests without reasons, or changed since, are left out."""
    return _write(RL_REASONS, file, _options, None)


def _read(format: str, entries: list[Any], parse: Parse) -> Draft:
    tests: list[PrincipleTest] = []
    marks: list[JsonValue] = []
    for number, entry in enumerate(entries):
        found = parse(entry, str(number))
        if len(tests) + len(found) > MOST_TESTS:
            raise ConstitutionError(f"{number}: these are more than {MOST_TESTS:,} tests; split the file")
        tests += found
        plain = len(found) == 1 and format == RL_SHOTS and _entry(found[0]) == entry
        marks.append({"tests": len(found)} if plain else {"tests": len(found), "entry": entry})
    if not entries:
        return draft(format, ())
    principle = made(
        Principle, "the tests", id=Names().new("published preferences"), statement=STATEMENT,
        use=("judge",), tests=tests, source={"format": format, "original": {"entries": marks}},
    )  # fmt: skip
    return draft(format, [principle])


def _write(
    format: str, file: ConstitutionFile, parse: Parse, render: Callable[[PrincipleTest], JsonValue] | None
) -> Export:
    out: list[JsonValue] = []
    unreasoned = 0
    chosen = [principle for principle in file.principles if principle.tests or original_of(principle, format)]
    for principle in chosen:
        marks: list[Mapping[str, Any]] = original_of(principle, format).get("entries", [])
        if sum(mark["tests"] for mark in marks) != len(principle.tests):
            marks = [{"tests": 1}] * len(principle.tests)
        left = list(principle.tests)
        for mark in marks:
            tests, left = left[: mark["tests"]], left[mark["tests"] :]
            if "entry" in mark and parse(mark["entry"], "") == tests:
                out.append(mark["entry"])
            elif render:
                out += [render(test) for test in tests]
            else:
                unreasoned += len(tests)
    left_out = lost(file, [p for p in chosen if p.statement != STATEMENT], ("tests",))
    left_out["principles"] = len(file.principles) - len(chosen)
    left_out |= {"tests without reasons": unreasoned}
    return Export(out, {what: count for what, count in left_out.items() if count})


def _pairs(entry: Preference, place: str) -> list[PrincipleTest]:
    parts = cut(entry["prompt"], place)
    if parts[-1] == ("Assistant", ""):
        parts.pop()
    if any(marker not in ("Human", "Assistant") for marker, _ in parts):
        raise ConstitutionError(
            f"{place}/prompt: there are other turns than Human and Assistant; remove them"
        )
    if len(entry["corrects"]) * len(entry["incorrects"]) > MOST_TESTS:
        raise ConstitutionError(
            f"{place}: its replies make more than {MOST_TESTS:,} tests; keep fewer of them"
        )
    turns = [
        {"role": "user" if marker == "Human" else "assistant", "content": text} for marker, text in parts
    ]
    return [
        made(PrincipleTest, place, prompt=turns, better=better, worse=worse)
        for better in entry["corrects"]
        for worse in entry["incorrects"]
    ]


def _entry(test: PrincipleTest) -> dict[str, Any]:
    return {
        "prompt": transcript(test.prompt) + _REPLY,
        "corrects": [test.better],
        "incorrects": [test.worse],
    }


def _options(entry: Reasoned, place: str) -> list[PrincipleTest]:
    found = _split(entry["prompt"])
    if found is None:
        problem = (
            "no conversation (H:, A:) with options (A) [[[…]]] and (B) [[[…]]] and 'So the answer is: (…)'"
        )
        raise ConstitutionError(f"{place}/prompt: {problem}; mend or remove it")
    talk, *options, answer = found
    speakers = list(_SPEAKER.finditer(talk))
    ends = [*(speaker.start() for speaker in speakers[1:]), len(talk)]
    turns = [
        Message(role="user" if speaker[1] == "H" else "assistant", content=talk[speaker.end() : end].strip())
        for speaker, end in zip(speakers, ends, strict=True)
    ]
    better, worse = options if answer == "A" else options[::-1]
    return [made(PrincipleTest, place, prompt=turns, better=better, worse=worse)]


def _split(text: str) -> tuple[str, str, str, str] | None:
    """Talk, option A, option B and the answer, each up to the first mark that can end it; None where one is missing."""
    head = _HEAD.match(text)
    if head is None:
        return None
    parts, rest = [], text[head.end() :]
    for mark in _CUTS:
        part, there, rest = rest.partition(mark)
        if not there:
            return None
        parts.append(part)
    answer = _ANSWER.fullmatch(rest.rpartition("\n\nHuman:\nSo the answer is: ")[2])
    return (parts[0], parts[1], parts[2], answer[1]) if answer else None
