"""The data files of the demo: prompts to generate from, prompts to evaluate on, labelled pairs for the judge.

`generate.jsonl` stays on the training side of the world's split; `evaluate.jsonl` and `pairs.jsonl`
on the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cai.embedded import world
from cai.embedded.check import gold_of, preference
from cai.embedded.corpus import judge_case
from cai.embedded.everyday import PLAIN, TWINS
from cai.embedded.world import Ask

GENERATE = {"harmful": 780, "helpful": 420}
EVALUATE = {"harmful": 240, "helpful": 200, "overrefusal": 160}
PAIRS = 600
TWIN_NAMES = frozenset(family.name for family in TWINS)
PLAIN_NAMES = frozenset(family.name for family in PLAIN)


def draw_for_tag(rng: random.Random, tag: str, held_out: bool) -> Ask:
    """A request for a tag; on the held-out side twins have a tag of their own."""
    if tag == "harmful":
        return world.draw_ask(rng, unsafe=True, held_out=held_out)
    while True:
        ask = world.draw_ask(rng, unsafe=False, held_out=held_out)
        if not held_out or ask.family in (TWIN_NAMES if tag == "overrefusal" else PLAIN_NAMES):
            return ask


def prompt_rows(seed: int, split: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    """`counts` distinct requests a tag, each in its conversation, shuffled; ids are stable for a seed."""
    rng = random.Random(f"{seed}/{split}")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for tag, count in counts.items():
        for _ in range(count):
            ask = draw_for_tag(rng, tag, split != "generate")
            while ask.text in seen:
                ask = draw_for_tag(rng, tag, split != "generate")
            seen.add(ask.text)
            messages = [message.model_dump() for message in world.conversation(ask, rng)]
            rows.append({"messages": messages, "tags": [tag]})
    rng.shuffle(rows)
    return [{"id": f"{split}-{number:04d}", **row} for number, row in enumerate(rows)]


def pair_rows(seed: int, count: int = PAIRS) -> list[dict[str, Any]]:
    """Labelled pairs on held-out requests; `gold` is a tie where the intended preference is nearly even."""
    rng = random.Random(f"{seed}/pairs")
    rows = []
    for number in range(count):
        ask = world.draw_ask(rng, unsafe=rng.random() < 0.75, held_out=True)
        principle, messages, a, b = judge_case(rng, ask)
        p = preference(principle, messages, a, b)
        assert p is not None
        rows.append(
            {
                "id": f"pair-{number:04d}",
                "prompt": [message.model_dump() for message in messages],
                "a": a,
                "b": b,
                "gold": gold_of(p),
                "principle": principle,
            }
        )
    return rows


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_data(folder: Path, seed: int) -> None:
    """Writes the three files."""
    files: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "generate": lambda: prompt_rows(seed, "generate", GENERATE),
        "evaluate": lambda: prompt_rows(seed, "evaluate", EVALUATE),
        "pairs": lambda: pair_rows(seed),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in files.items():
        write_jsonl(folder / f"{name}.jsonl", make())
