"""How often each model wins against another, side by side before the judge, in a table beside the rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from cai.report.plots import AFTER, OTHER, to_html
from cai.report.tables import percent, plain

TITLES = ("win rate", "at equal length", "won/tied/lost", "sign test p")


def pair_rows(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Each pair of models and its cells under TITLES; none where the evaluation compared no models."""
    for name, found in _pairs(evaluation).items():
        won, p = found["win_rate"], found["p_value"]
        counts = "/".join(f"{won[count]:,}" for count in ("wins", "ties", "losses"))
        yield (
            name.replace("-vs-", " vs "),
            [percent(won), percent(found["equal_length"]), counts, _p_value(p)],
        )


def tag_rows(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, str, int]]:
    """Pair, tag, win rate and number of comparisons, where the held-out prompts have tags."""
    for name, found in _pairs(evaluation).items():
        for tag, won in found["tags"].items():
            yield name.replace("-vs-", " vs "), tag, percent(won), won["n"]


def note_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """What to know of the comparisons before they are believed, a line for each pair."""
    return [
        f"{name.replace('-vs-', ' vs ')}: {'; '.join(_notes(found))}"
        for name, found in _pairs(evaluation).items()
    ]


def print_pairs(evaluation: Mapping[str, Any], console: Console) -> None:
    """The table and the notes; nothing where no models were compared."""
    rows = list(pair_rows(evaluation))
    if not rows:
        return
    table = Table(title="side by side, % [95 % interval]; a tie is half a win", title_justify="left")
    table.add_column("models", no_wrap=True)
    for title in TITLES:
        table.add_column(title, justify="right")
    for name, cells in rows:
        table.add_row(name, *map(plain, cells))
    console.print(table)
    for line in note_lines(evaluation):
        console.print(plain(f"compared {line}"), soft_wrap=True, highlight=False)


def pairs_view(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the report page shows of it; None where no models were compared."""
    rows = list(pair_rows(evaluation))
    if not rows:
        return None
    return {
        "titles": TITLES,
        "rows": rows,
        "tags": list(tag_rows(evaluation)),
        "notes": note_lines(evaluation),
        "plot": _plot(_pairs(evaluation)),
    }


def _pairs(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = evaluation.get("side_by_side", {})
    return found


def _plot(pairs: Mapping[str, Any]) -> Markup:
    """Win rates with their intervals."""
    import plotly.graph_objects as go

    figure = go.Figure()
    measures = (("win_rate", "win rate", AFTER), ("equal_length", "at equal length", OTHER))
    for measure, title, colour in measures:
        known = {name: pair[measure] for name, pair in pairs.items() if pair[measure]["rate"] is not None}
        figure.add_bar(
            name=title,
            x=[name.replace("-vs-", " vs ") for name in known],
            y=[100 * found["rate"] for found in known.values()],
            marker_color=colour,
            error_y={
                "color": "#888",
                "array": [100 * (found["high"] - found["rate"]) for found in known.values()],
                "arrayminus": [100 * (found["rate"] - found["low"]) for found in known.values()],
            },
        )
    figure.add_hline(y=50, line_dash="dot", line_color="#888")
    figure.update_layout(barmode="group", yaxis_title="% of the comparisons", yaxis_range=[0, 103])
    return to_html(figure, "how often each model wins side by side, with 95 % intervals")


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"judged by {found['judge']}"
    if found["win_rate"]["ties"]:
        yield (
            f"of the ties {found['identical']:,} are identical replies and {found['inconsistent']:,} changed sides "
            "with the order"
        )
    if (first := found["position"]["first_position_rate"]) is not None:
        yield f"{first:.0%} of {found['position']['verdicts']:,} verdicts for the reply shown first"
    if found["longer_wins"] is not None:
        yield f"the longer reply won {found['longer_wins']:.0%} of the decided ones"
    if found["equal_length"]["why_not"]:
        yield f"no win rate at equal length: {found['equal_length']['why_not']}"
    if found["unscored"]:
        yield "unscored: " + ", ".join(f"{reason} {count:,}" for reason, count in found["unscored"].items())


def _p_value(p: float | None) -> str:
    return "–" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"
