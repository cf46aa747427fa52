"""How good are the labels? The pairs that a run of the embedded world judged, against the exact rules of that world.

Takes a finished run (`make demo` leaves outputs/demo) and asks no model: every pair and principle that its judge
heard in both orders is labelled (a) from one order with the fixed threshold, (b) from the mean of both orders with
the fixed threshold, (c) calibrated, with a threshold chosen for a promised accuracy. (c) learns from the pairs of
one half of the prompts and labels the other half, and the other way round: nothing is measured where it was
learned. A label is wrong where it names the worse reply, and where it prefers one of two that are equally good.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cai.config_file import validate_config
from cai.constitution import Constitution, load_constitution
from cai.embedded.check import gold_of, preference
from cai.judge.cases import Case, folds, orders_of, outcome
from cai.judge.fit import Settings, fit_rule
from cai.judge.label import JudgeRule, heard_in_both_orders
from cai.pipeline import read_stage
from cai.report.status import read_json
from cai.rows import Judgment


def cases_of(run: Path) -> list[tuple[str, Case]]:
    """Every pair and principle that was heard in both orders, with the truth; beside the id of its prompt."""
    config = validate_config(read_json(run / "config.json"), str(run / "config.json"))
    config = config.model_copy(update={"outputs": str(run.parent), "name": run.name})
    constitution = load_constitution(config.constitution)
    return [
        (judgment.prompt.id, case)
        for judgment in read_stage(config, "judge", Judgment)
        for case in _cases(judgment, constitution)
    ]


def _cases(judgment: Judgment, constitution: Constitution) -> list[Case]:
    found = []
    a, b = judgment.a.text, judgment.b.text
    for heard in heard_in_both_orders(judgment.verdicts, constitution.principles):
        wording = heard.principle.judge or heard.principle.statement
        p = preference(wording, judgment.prompt.messages, a, b)
        if p is not None:
            found.append(Case(f"{judgment.id}/{heard.principle.id}", gold_of(p), heard.ab, heard.ba, 0.5))
    return found


def measure(parts: Sequence[tuple[Sequence[Case], JudgeRule]]) -> dict[str, float | None]:
    """Labels, and how many of them are right, name the worse reply, or prefer one of two equals."""
    counts: Counter[str] = Counter()
    for cases, rule in parts:
        orders = orders_of(cases)
        for case in cases:
            found = outcome(case, rule, orders)
            if found.kept and found.p is not None:
                side = "A" if found.p > 0.5 else "B"
                counts["equal" if case.gold == "tie" else "right" if case.gold == side else "worse"] += 1
    labels = counts.total()
    return {
        "labels": labels,
        "coverage": labels / sum(len(cases) for cases, _ in parts),
        "wrong": labels - counts["right"],
        "names_the_worse": counts["worse"],
        "of_two_equals": counts["equal"],
        "accuracy": counts["right"] / labels if labels else None,
    }


def compare(
    rows: Sequence[tuple[str, Case]], target: float, risk: float, threshold: float
) -> dict[str, object]:
    """The three ways; the third learns from the half of the prompts that it does not label."""
    prompts = sorted({prompt for prompt, _ in rows})
    half = folds([Case(prompt, None, None, None, 0.5) for prompt in prompts], 2)
    side = dict(zip(prompts, half, strict=True))
    halves = [[case for prompt, case in rows if side[prompt] == part] for part in (0, 1)]
    learned = [fit_rule(cases, Settings("temperature", target=target, risk=risk)) for cases in halves]
    fixed = JudgeRule(threshold)
    one = [([case._replace(ba=None) for case in cases], fixed) for cases in halves]
    ways = {
        f"one order, from {threshold:g} on": measure(one),
        f"both orders, from {threshold:g} on": measure([(cases, fixed) for cases in halves]),
        f"calibrated, {target:.0%} promised": measure(list(zip(halves, learned[::-1], strict=True))),
    }
    return {
        "pairs": len(rows),
        "of_two_equals": sum(case.gold == "tie" for _, case in rows),
        "thresholds": [rule.threshold for rule in learned],
        "ways": ways,
    }


def show(found: dict[str, object], console: Console) -> None:
    """The table of the README."""
    title = f"labels on {found['pairs']:,} judged pairs, {found['of_two_equals']:,} of them of two equals"
    table = Table(title=title, title_justify="left")
    for column in ("", "labels", "coverage", "wrong", "worse", "equal", "right"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    ways: dict[str, dict[str, float]] = found["ways"]  # type: ignore[assignment]
    for name, way in ways.items():
        counts = [f"{way[key]:,}" for key in ("wrong", "names_the_worse", "of_two_equals")]
        right = "–" if way["accuracy"] is None else f"{way['accuracy']:.1%}"
        table.add_row(name, f"{way['labels']:,}", f"{way['coverage']:.1%}", *counts, right)
    console.print(table)


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run of the embedded world, e.g. outputs/demo")
    parser.add_argument("--target-accuracy", type=float, default=0.98)
    parser.add_argument("--risk", type=float, default=0.1)
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = compare(cases_of(options.run), options.target_accuracy, options.risk, options.threshold)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        show(found, Console())


if __name__ == "__main__":
    main()
