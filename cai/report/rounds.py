"""What each round of DPO came to: samples, pairs, what was dropped on the way, what it replayed, and its cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cai.report.tables import cost_cell, plain
from cai.rounds import Round, rounds_in

TOKENS = ("prompt_tokens", "completion_tokens")
TITLES = ("round", "samples", "dropped", "pairs", "replayed", "calls")
LEFT = ("round", "dropped")  # columns of words


def rounds_done(config: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rounds of a stored config that have begun, from the totals of its stages; none of a run without any.

    `dropped`: samples and pairs by reason. `learned`: pairs that its model was trained on, its own and `replayed`
    ones; None until both are there.
    """
    section = config["dpo"] or {}
    count, alone = section.get("rounds", 1), section.get("self_play", False)
    if config["recipe"] != "paper" or (count == 1 and not alone):
        return []
    replay = bool(section["replay"])
    return [_done(one, stages, alone, replay) for one in rounds_in(count) if one.generate in stages]


def _done(one: Round, stages: Mapping[str, Mapping[str, Any]], alone: bool, replay: bool) -> dict[str, Any]:
    """Of the stages that the config asks for; folders of an earlier one may hold more."""
    judges = [name for name in stages if name == one.judge or name.startswith(f"{one.judge}-")]
    learned = [one.pairs, *([one.replay] if replay and one.number > 1 else [])]
    through = (one.generate, *([] if alone else judges), *learned)
    own = {name: stages[name] for name in through if name in stages}
    dropped: Counter[str] = Counter()
    for name in (one.generate, one.judge, one.pairs):
        dropped.update(own[name]["drops"] if name in own else {})
    kept = [own[name]["rows_out"] for name in learned if name in own]
    costs = [found["cost"] for found in own.values()]
    return {
        "round": one.number,
        "sampled": one.sampled,
        "model": one.model,
        "samples": own[one.generate]["rows_out"],
        "pairs": own[one.pairs]["rows_out"] if one.pairs in own else None,
        "dropped": dict(sorted(dropped.items())),
        "replayed": own[one.replay]["rows_out"] if one.replay in own else 0,
        "learned": sum(kept) if len(kept) == len(learned) else None,
        **{key: sum(found[key] for found in own.values()) for key in ("calls", *TOKENS)},
        "cost": None if None in costs else sum(costs),
    }


def round_rows(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A round's cells under TITLES and, last, its cost; all of them are words of ours and numbers."""
    return [
        [
            f"{one['round']}: {one['sampled']} → {one['model']}",
            f"{one['samples']:,}",
            ", ".join(f"{reason} {count:,}" for reason, count in one["dropped"].items()),
            "–" if one["pairs"] is None else f"{one['pairs']:,}",
            f"{one['replayed']:,}",
            f"{one['calls']:,}",
            cost_cell(one["cost"]),
        ]
        for one in found
    ]


def rounds_view(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page shows of them; nothing of a run without any."""
    return {"titles": (*TITLES, "cost $"), "left": LEFT, "rows": round_rows(found)} if found else {}


def rounds_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The rounds in the terminal; cost where a price is known."""
    priced = any(one["cost"] for one in found)
    table = Table(title="rounds of DPO", title_justify="left")
    for title in (*TITLES, *(("cost $",) if priced else ())):
        table.add_column(
            title, justify="left" if title in LEFT else "right", no_wrap=title != "dropped", overflow="fold"
        )
    for cells in round_rows(found):
        cells[2] = plain(cells[2].replace(", ", "\n"))
        table.add_row(*(cells if priced else cells[:-1]))
    return table
