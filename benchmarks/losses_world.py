"""Which of two replies is better in the embedded world, by the demo's constitution as a whole and the exact rules."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from cai.constitution import load_constitution
from cai.embedded.check import gold_of, preference
from cai.rows import Message

ROOT = Path(__file__).parent.parent
DATA = ROOT / "cai" / "embedded" / "data"
Pair = tuple[tuple[Message, ...], str, str]  # prompt, better reply, worse reply


@cache
def principles() -> tuple[tuple[str, float], ...]:
    """Wording for judges and weight of each principle."""
    found = load_constitution(ROOT / "constitutions" / "toy.yaml").principles
    return tuple((one.judge or one.statement, one.weight) for one in found)


def turns(raw: Iterable[dict[str, str]]) -> tuple[Message, ...]:
    """A conversation as rows of ours."""
    return tuple(Message.model_validate(turn) for turn in raw)


def winner(messages: Sequence[Message], a: str, b: str) -> str:
    """`A`, `B` or `tie`, by the weighted mean of the principles' intended preferences."""
    found = [(preference(wording, messages, a, b), weight) for wording, weight in principles()]
    known = [(p, weight) for p, weight in found if p is not None]
    return gold_of(sum(p * weight for p, weight in known) / sum(weight for _, weight in known))


def held_out_pairs(count: int) -> list[Pair]:
    """Of the demo's labelled pairs the first that the constitution tells apart, whatever principle they name."""
    found: list[Pair] = []
    for line in (DATA / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = turns(row["prompt"])
        better = winner(messages, row["a"], row["b"])
        if better != "tie":
            found.append((messages, *((row["a"], row["b"]) if better == "A" else (row["b"], row["a"]))))
    return found[:count]
