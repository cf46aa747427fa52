"""The coverage of a constitution for people: a terminal table, rows of a table artifact, and a plot for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from cai.report.plots import AFTER, BEFORE, OTHER, axis_label, to_html
from cai.report.tables import plain

SHOWN = 15  # principles of a terminal table or a plot; the JSON has all
TITLES = ("critiques", "violated", "better", "judged", "decided", "agrees")
RATES = (
    ("revising", "violated_rate", "critiques that find a violation", BEFORE),
    ("revising", "better_rate", "revisions verified better", OTHER),
    ("judging", "agreed_rate", "comparisons on the side of the others", AFTER),
)


def rows_of(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The counts of each principle as one flat row. `found`: what `coverage.json` holds."""
    for name, revising in found["revising"].items():
        judging = found["judging"][name]
        counts = {"principle": name}
        for use, figures in (("revise", revising), ("judge", judging)):
            counts |= {f"{use}_{key}": n for key, n in figures.items() if not key.endswith("_rate")}
        yield counts


def print_coverage(found: Mapping[str, Any], console: Console) -> None:
    """A table of the principles, those with findings first where there are many, and the findings."""
    names = _shown(found)
    table = Table(title="principles", title_justify="left")
    table.add_column("principle", overflow="fold", min_width=12)
    for title in TITLES:
        table.add_column(title, justify="right", no_wrap=True)
    for name in names:
        table.add_row(plain(name), *cells_of(found["revising"][name], found["judging"][name]))
    console.print(table)
    if hidden := len(found["revising"]) - len(names):
        console.print(f"{hidden:,} more principles: see the report, or --json")
    for finding in found["findings"]:
        console.print(plain(finding["message"]), soft_wrap=True, highlight=False)


def cells_of(revising: Mapping[str, Any], judging: Mapping[str, Any]) -> list[str]:
    """One principle under TITLES.

    Critiques, and the share that finds a violation; judged revisions found better; comparisons, labels decided, and
    those in which it agrees with the others.
    """
    drawn, violated = revising["drawn"], revising["violated"]
    return [
        f"{drawn:,}",
        f"{violated:,} ({violated / drawn:.0%})" if drawn else "–",
        _part(revising["better"], revising["judged"]),
        f"{judging['drawn']:,}",
        _part(judging["decided"], judging["labels"]),
        _part(judging["agreed"], judging["compared"]),
    ]


def coverage_plot(found: Mapping[str, Any]) -> Markup:
    """Rates of the principles with their intervals; empty where no principle has any."""
    import plotly.graph_objects as go

    names = _shown(found)
    figure = go.Figure()
    for offset, (use, rate, title, colour) in zip((-0.2, 0.0, 0.2), RATES, strict=True):
        points = [(at, found[use][name][rate]) for at, name in enumerate(names)]
        points = [(at, point) for at, point in points if point["rate"] is not None]
        if points:
            figure.add_scatter(
                name=title,
                x=[100 * point["rate"] for _, point in points],
                y=[at + offset for at, _ in points],
                text=[f"of {point['n']:,}" for _, point in points],
                error_x={
                    "color": colour,
                    "array": [100 * (point["high"] - point["rate"]) for _, point in points],
                    "arrayminus": [100 * (point["rate"] - point["low"]) for _, point in points],
                },
                mode="markers",
                marker={"color": colour, "size": 9},
            )
    if not figure.data:
        return Markup()
    figure.add_vline(x=50, line_dash="dot", line_color="#888")
    figure.update_layout(
        xaxis_title="%", xaxis_range=[-2, 102], yaxis_autorange="reversed", yaxis_automargin=True,
        yaxis={"tickvals": list(range(len(names))), "ticktext": [axis_label(name) for name in names]},
    )  # fmt: skip
    figure.update_traces(hovertemplate="%{x:.1f} % %{text}<extra>%{fullData.name}</extra>")
    title = "what came of each principle, with 95 % intervals"
    return to_html(figure, title, height=130 + 48 * len(names))


def _shown(found: Mapping[str, Any]) -> list[str]:
    """All principles in order; of many, those with findings, then the others."""
    names = list(found["revising"])
    if len(names) <= SHOWN:
        return names
    named = {finding["principle"] for finding in found["findings"]}
    return sorted(names, key=lambda name: name not in named)[:SHOWN]


def _part(part: int, whole: int) -> str:
    return f"{part:,}/{whole:,}" if whole else "–"
