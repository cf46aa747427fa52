"""The tables of docs/losses.md from the committed figures: means over seeds with 95 % intervals, in Markdown.

A seed is one observation: Student's t over the seeds' rates, and over their differences where two trainings of the
same seed are compared (same SFT model, same pairs, same prompts). All seeds share one dataset and the held-out prompts,
so the intervals are about training and sampling again, not about other prompts. Where every seed has the same rate,
the interval has no width, which says nothing about what other seeds would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.intervals import Difference, mean_difference
from cai.store import write_text

DOCS = Path("docs") / "losses.md"
Cells = Mapping[tuple[str | None, float, str], Mapping[int, Mapping[str, Any]]]  # then by seed
RATES = ("harmless", "helpful", "overrefusal")
NAMES = {
    "base": "base",
    "sft": "SFT",
    "sigmoid": "DPO `sigmoid`",
    "sigmoid+sft": "DPO `[sigmoid, sft]`, 1 : 0.2",
    "ipo": "DPO `ipo`",
    "robust": "DPO `robust`",
    "cdpo": "cDPO (`soft_labels`: one number)",
    "soft": "soft labels (`soft_labels: true`)",
    "kto": "KTO",
    "orpo": "ORPO, from the base",
    "cpo": "CPO",
    "simpo": "SimPO",
}
HELP_LOST = -0.03  # at most, for a training to have met what is asked of it


def cells_of(result: Mapping[str, Any]) -> Cells:
    """The figures of a result by noise, rate and method, then by seed."""
    found: dict[tuple[str | None, float, str], dict[int, Mapping[str, Any]]] = {}
    for one in result["cells"]:
        found.setdefault((one["noise"], one["rate"], one["method"]), {})[one["seed"]] = one
    return found


def figure(cell: Mapping[str, Any], name: str) -> float | None:
    """One figure of a cell; a metric's count as a share."""
    value = cell.get(name)
    if name in RATES:
        held, total = cell[name]
        return float(held / total) if total else None
    return None if value is None else float(value)


def over_seeds(cells: Mapping[int, Mapping[str, Any]], name: str) -> Difference:
    """The mean of a figure over the seeds that have it."""
    values = [value for one in cells.values() if (value := figure(one, name)) is not None]
    return mean_difference(values, [0.0] * len(values))


def against(
    cells: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, Any]], name: str
) -> Difference:
    """How much higher a figure is than another training's, over the seeds that both have."""
    seeds = sorted(set(cells) & set(others))
    pairs = [(figure(cells[seed], name), figure(others[seed], name)) for seed in seeds]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return mean_difference([a for a, _ in known], [b for _, b in known])


def render(result: Mapping[str, Any]) -> dict[str, str]:
    """The tables by name."""
    cells = cells_of(result)
    return {"losses": _losses(cells), "noise": _noise(cells)}


def write_tables(path: Path, result: Mapping[str, Any]) -> None:
    """Put the tables between their marks in a Markdown file."""
    write_text(path, with_tables(path.read_text(encoding="utf-8"), render(result)))


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """The text with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced, for every table.

    Raises ValueError for a mark that is not there.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"no {begin.strip()} … {end} to put the table into")
        text = f"{before}{begin}{table}{end}{after}"
    return text


def _losses(cells: Cells) -> str:
    sft = cells.get((None, 0.0, "sft"), {})
    rows = []
    for method, name in NAMES.items():
        found = cells.get((None, 0.0, method))
        if found is None:
            continue
        rates = [_percent(over_seeds(found, metric)) for metric in RATES]
        words, prefers = over_seeds(found, "words"), over_seeds(found, "prefers_better")
        row = [name, str(len(found)), *rates, _words(words), _percent(prefers)]
        if method in ("base", "sft"):
            rows.append([*row, "", "", ""])
            continue
        harmless, helpful = against(found, sft, "harmless"), against(found, sft, "helpful")
        rows.append([*row, _points(harmless), _points(helpful), _met(harmless, helpful)])
    heads = ["training", "seeds", "harmless %", "helpful %", "over-refusal %", "words", "prefers better %"]
    return _table([*heads, "harmless − SFT", "helpful − SFT", "met"], rows)


def _noise(cells: Cells) -> str:
    rows = []
    clean = cells.get((None, 0.0, "sigmoid"), {})
    levels = sorted({(noise, rate) for noise, rate, _ in cells if noise is not None}, key=str)
    rows.append(_noise_row("none", "0", "sigmoid", clean, None))
    for noise, rate in levels:
        hard = cells.get((noise, rate, "sigmoid"), {})
        for method in NAMES:
            found = cells.get((noise, rate, method))
            if found is not None:
                other = None if method == "sigmoid" else hard
                rows.append(_noise_row(str(noise), f"{100 * rate:.0f}", method, found, other))
    heads = ["labeller", "wrong %", "loss", "seeds", "harmless %", "helpful %", "over-refusal %", "words"]
    return _table([*heads, "prefers better %", "harmless − `sigmoid`", "prefers − `sigmoid`"], rows)


def _noise_row(
    noise: str,
    rate: str,
    method: str,
    found: Mapping[int, Mapping[str, Any]],
    hard: Mapping[int, Mapping[str, Any]] | None,
) -> list[str]:
    rates = [_percent(over_seeds(found, metric)) for metric in RATES]
    more = [_words(over_seeds(found, "words")), _percent(over_seeds(found, "prefers_better"))]
    change = (
        [_points(against(found, hard, name)) for name in ("harmless", "prefers_better")] if hard else ["", ""]
    )
    return [noise, rate, NAMES[method], str(len(found)), *rates, *more, *change]


def _met(harmless: Difference, helpful: Difference) -> str:
    """Whether harmlessness rose beyond doubt, at no more than 3 points of helpfulness."""
    if harmless.low is None or helpful.difference is None:
        return "–"
    return "yes" if harmless.low > 0 and helpful.difference >= HELP_LOST else "no"


def _interval(found: Difference, show: Callable[[float], str]) -> str:
    if found.difference is None:
        return "–"
    if found.low is None or found.high is None:
        return show(found.difference)
    return f"{show(found.difference)} [{show(found.low)}, {show(found.high)}]"


def _percent(found: Difference) -> str:
    return _interval(found, lambda value: f"{100 * min(max(value, 0.0), 1.0):.1f}")


def _points(found: Difference) -> str:
    return _interval(found, lambda value: f"{100 * value:+.1f}")


def _words(found: Difference) -> str:
    return _interval(found, lambda value: f"{value:.1f}")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["--" for _ in heads], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
