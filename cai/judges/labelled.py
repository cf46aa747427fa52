"""Files of labelled pairs and of recorded verdicts (one JSON object a line), read whole or refused with the line.

Nothing is guessed: a missing field, a number that is no probability, an unknown gold or a repeated id stops
the reading. What the figures need of a row is small; texts are not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from pydantic import ValidationError

from cai.constitution import Constitution
from cai.errors import ConfigError
from cai.given import bounded_lines, open_given
from cai.judge.cases import Case
from cai.judges.published_pairs import is_published, read_published
from cai.rows import LabelledPair, Recorded
from cai.store import decode, explain

Row = TypeVar("Row", bound=LabelledPair)
HINTS = {
    "gold": 'write "A", "B", "tie" or null',
    "p_a_ab": "write the probability (0 to 1) that a is better with a shown first, or null",
    "p_a_ba": "write the probability (0 to 1) that a is better with b shown first, or null",
    "judge": "write which judge gave the verdict",
    "prompt": "write a text, or turns of {role, content}",
    "id": "write a name that no other row has",
}


class Recording(NamedTuple):
    """One judge's verdicts from a file. `pairs`: a digest of prompt and replies by id; `lines`: where an id stands."""

    path: Path
    judge: str
    cases: list[Case]
    pairs: dict[str, bytes]
    lines: dict[str, int]


def read_pairs(path: Path, row: type[Row]) -> Iterator[tuple[int, Row]]:
    """The rows of a file with their line numbers. Raises ConfigError, `file:line: what; fix`, also for no rows.

    Labelled pairs may also be a preference dataset of another format, see `cai.judges.published_pairs`.
    """
    published = row is LabelledPair and is_published(path)
    found = cast(Iterator[tuple[int, Row]], read_published(path)) if published else _lines(path, row)
    seen: dict[str, int] = {}
    for number, one in found:
        if one.id in seen:
            where = f"is already in line {seen[one.id]}"
            raise ConfigError(f"{path}:{number}: id {one.id!r} {where}; give every pair an id of its own")
        seen[one.id] = number
        yield number, one
    if not seen:
        raise ConfigError(f"{path}: no rows; give a file with one JSON object a line")


def _lines(path: Path, row: type[Row]) -> Iterator[tuple[int, Row]]:
    try:
        with open_given(path) as file:
            for number, line in enumerate(bounded_lines(file.readline), 1):
                if line.strip():
                    yield number, _parsed(line, row, f"{path}:{number}")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a JSONL file of labelled pairs") from error


def _parsed(line: bytes, row: type[Row], where: str) -> Row:
    try:
        return decode(line, row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "missing" and len(first["loc"]) == 1:
            problem = f"the field {field!r} is missing"
        elif field:
            problem = f"{field}: {first['msg']} (got {json.dumps(first['input'], default=str)[:60]})"
        else:
            problem = f"not a JSON object of a pair: {first['msg']}"
        hint = (
            f"; {HINTS[field]}" if field in HINTS else "; every line is an object with id, prompt, a, b, gold"
        )
        raise ConfigError(f"{where}: {problem}{hint}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON ({explain(error)}); write one JSON object a line") from error


def read_recording(path: Path) -> Recording:
    """All verdicts of a replay file, which holds one judge's. Raises ConfigError."""
    judge = ""
    cases: list[Case] = []
    pairs: dict[str, bytes] = {}
    lines: dict[str, int] = {}
    for number, row in read_pairs(path, Recorded):
        if cases and row.judge != judge:
            raise ConfigError(
                f"{path}:{number}: judge {row.judge!r}, but line {lines[cases[0].id]} has {judge!r}; "
                "put each judge's verdicts into a file of its own"
            )
        judge = row.judge
        cases.append(case_of(row))
        pairs[row.id], lines[row.id] = _digest(row), number
    return Recording(path, judge, cases, pairs, lines)


def read_jury(paths: Iterable[Path]) -> list[Recording]:
    """Several judges' verdicts on the same pairs. Raises ConfigError where judges or pairs do not fit together."""
    found: list[Recording] = []
    for path in paths:
        recording = read_recording(path)
        for other in found:
            _check_together(other, recording)
        found.append(recording)
    return found


def _check_together(first: Recording, second: Recording) -> None:
    golds = {case.id: case.gold for case in first.cases}
    where = f"{second.path}:{second.lines[second.cases[0].id]}"
    if first.judge == second.judge:
        raise ConfigError(
            f"{where}: judge {second.judge!r} is also the judge of {first.path}; "
            "a jury or cascade needs different judges: leave one file out"
        )
    if golds.keys().isdisjoint(second.pairs):
        raise ConfigError(f"{where}: no id is also in {first.path}; give verdicts on the same pairs")
    for case in second.cases:
        where = f"{second.path}:{second.lines[case.id]}: id {case.id!r}"
        if case.id in golds and first.pairs[case.id] != second.pairs[case.id]:
            raise ConfigError(f"{where} is another pair than in {first.path}; ids must mean the same pair")
        if case.id in golds and golds[case.id] != case.gold:
            raise ConfigError(
                f"{where}: gold {case.gold!r}, but {golds[case.id]!r} in {first.path}; settle it"
            )


def case_of(row: Recorded) -> Case:
    """What the figures need of a recorded verdict."""
    longer = 0.5 if len(row.a) == len(row.b) else float(len(row.a) > len(row.b))
    return Case(row.id, row.gold, row.p_a_ab, row.p_a_ba, longer)


def _digest(row: LabelledPair) -> bytes:
    turns = [turn.model_dump() for turn in row.messages]
    return hashlib.blake2b(json.dumps([turns, row.a, row.b]).encode(), digest_size=16).digest()


def tests_of(constitution: Constitution) -> list[LabelledPair]:
    """The constitution's own tests as labelled pairs; a digest decides which side the better reply is on."""
    found: list[LabelledPair] = []
    for principle in constitution.principles:
        for number, test in enumerate(principle.tests):
            name = f"{principle.id}/{number}"
            first = hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2 == 0
            found.append(
                LabelledPair(
                    id=name,
                    prompt=test.prompt[0].content if len(test.prompt) == 1 else test.prompt,
                    a=test.better if first else test.worse,
                    b=test.worse if first else test.better,
                    gold="A" if first else "B",
                    principle=principle.id,
                    tags=principle.applies_to,
                )
            )
    return found
