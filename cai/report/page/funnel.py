"""From prompts to pairs: what each stage passed on, and what it dropped for which reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from cai.report.plots import AFTER, BEFORE, PALETTE, axis_label, to_html

ASIDE = (
    "qualify-",
    "held-out",
    "evaluate-",
    "grade-",
    "compare-",
)  # stages that no row of the dataset goes through
REASONS = 3  # with a colour of their own; the rest share one


def funnel_plot(stages: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Bars of rows passed on and rows dropped, a stage each; empty before the first stage is done."""
    import plotly.graph_objects as go

    names = [name for name in stages if not name.startswith(ASIDE)]
    if not names:
        return Markup()
    drops: Counter[str] = Counter()
    for name in names:
        drops.update(stages[name]["drops"])
    common = [reason for reason, _ in drops.most_common(REASONS)]
    series: dict[str, list[int]] = {"passed on": [stages[name]["rows_out"] for name in names]}
    for reason in common:
        title = axis_label(f"dropped: {reason.replace('_', ' ')}")
        series[title] = [stages[name]["drops"].get(reason, 0) for name in names]
    if len(drops) > len(common):
        series["dropped: other reasons"] = [
            sum(count for reason, count in stages[name]["drops"].items() if reason not in common)
            for name in names
        ]
    at = list(range(len(names)))
    colours = [AFTER, *PALETTE[2:], BEFORE]
    figure = go.Figure()
    for (title, counts), colour in zip(series.items(), colours, strict=False):
        figure.add_bar(name=title, x=counts, y=at, orientation="h", marker_color=colour)
    figure.update_layout(
        barmode="stack", bargap=0.3, xaxis_title="rows", yaxis_autorange="reversed", yaxis_automargin=True,
        yaxis={"tickvals": at, "ticktext": [axis_label(name) for name in names]}, legend_traceorder="normal",
    )  # fmt: skip
    return to_html(figure, "rows that each stage passed on and dropped", height=150 + 34 * len(names))
