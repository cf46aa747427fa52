"""The plots of what the judge said and what became of it, and of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from cai.report.plots import AFTER, BEFORE, GREY, OTHER, axis_label, intervals, to_html
from cai.report.tables import METRICS


def evaluation_plot(evaluation: Mapping[str, Any]) -> Markup:
    """Rates of each model on the held-out prompts, with their intervals."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, rates in evaluation.items():
        known = [metric for metric in METRICS if rates[metric]["rate"] is not None]
        cells = [rates[metric] for metric in known]
        figure.add_bar(
            name=name,
            x=[METRICS[metric] for metric in known],
            y=[100 * cell["rate"] for cell in cells],
            error_y=intervals(cells),
        )
    figure.update_layout(barmode="group", yaxis_title="% of held-out prompts", yaxis_range=[0, 103])
    return to_html(figure, "rates of each model on the held-out prompts, with 95 % intervals")


def confidence_plot(found: Mapping[str, Any]) -> Markup:
    """How sure the judge is, and what becomes of it. `found`: what `filter.json` holds."""
    import plotly.graph_objects as go

    bins = found["confidence"]
    middles = [(bin["low"] + bin["high"]) / 2 for bin in bins]
    figure = go.Figure()
    for fate, colour in (("kept", AFTER), ("not_kept", BEFORE), ("inconsistent", OTHER)):
        name = fate.replace("_", " ")
        figure.add_bar(name=name, x=middles, y=[bin[fate] for bin in bins], marker_color=colour)
    figure.update_layout(
        barmode="stack",
        bargap=0.05,
        legend_traceorder="normal",
        xaxis_title="confidence, max(p, 1 − p)",
        yaxis_title="judgments",
    )
    _mark_threshold(figure, found)
    return to_html(figure, "how sure the judge was, and what became of its judgments")


def threshold_plot(found: Mapping[str, Any]) -> Markup:
    """What other thresholds would keep, and how often the longer reply would be the chosen one."""
    import plotly.graph_objects as go

    points = found["thresholds"]
    figure = go.Figure()
    lines = (
        ("coverage", "judgments kept", AFTER),
        ("longer_rate", "of these, longer reply chosen", OTHER),
    )
    for field, name, colour in lines:
        figure.add_scatter(
            name=name,
            x=[point["threshold"] for point in points],
            y=[None if point[field] is None else 100 * point[field] for point in points],
            mode="lines+markers",
            line_color=colour,
        )
    figure.update_layout(xaxis_title="threshold", yaxis_title="%", yaxis_range=[0, 103])
    _mark_threshold(figure, found)
    return to_html(figure, "what other thresholds would keep, and how often the longer reply would be chosen")


def shares_plot(group: str, rows: list[tuple[str, Mapping[str, Any]]]) -> Markup:
    """Shares of values before and after the filter, as pairs of bars; `rows`: (name, value), the first on top."""
    import plotly.graph_objects as go

    at = list(range(len(rows)))
    figure = go.Figure()
    for side, colour in (("before", BEFORE), ("after", AFTER)):
        shares = [value[side]["share"] for _, value in rows]
        figure.add_bar(
            name=f"{side} the filter",
            x=[None if share is None else 100 * share for share in shares],
            y=at,
            orientation="h",
            marker_color=colour,
        )
    figure.update_layout(
        barmode="group", xaxis_title="% of the pairs",
        yaxis={"tickvals": at, "ticktext": [axis_label(name) for name, _ in rows]}, yaxis_autorange="reversed",
        yaxis_automargin=True,
    )  # fmt: skip
    figure.update_traces(hovertemplate="%{x:.1f} %<extra>%{fullData.name}</extra>")
    return to_html(figure, f"share of each {group} before and after the filter", height=130 + 36 * len(rows))


def reliability_plot(found: Mapping[str, Any]) -> Markup:
    """How sure the judge was against how often it was right, on labelled pairs. `found`: figures of a judge."""
    import plotly.graph_objects as go

    bins = found["reliability"]
    figure = go.Figure()
    figure.add_scatter(
        name="perfectly calibrated",
        x=[0.5, 1],
        y=[50, 100],
        mode="lines",
        line={"color": GREY, "dash": "dot"},
    )
    figure.add_scatter(
        name="right, % of the pairs",
        x=[bin["confidence"] for bin in bins],
        y=[100 * bin["accuracy"] for bin in bins],
        text=[f"{bin['n']} pairs" for bin in bins],
        error_y=intervals([_rate(bin) for bin in bins]),
        mode="markers",
        marker={"color": AFTER, "size": 9},
    )
    figure.update_layout(xaxis_title="confidence of the judge itself, max(p, 1 − p)", yaxis_range=[0, 103])
    return to_html(figure, "reliability: how sure the judge was against how often it was right")


def risk_plot(found: Mapping[str, Any]) -> Markup:
    """Accuracy of what thresholds keep against how much they keep, on labelled pairs."""
    import plotly.graph_objects as go

    points = [point for point in found["risk_coverage"] if point["accuracy"] is not None]
    figure = go.Figure()
    figure.add_scatter(
        name="right, %",
        x=[100 * point["coverage"] for point in points],
        y=[100 * point["accuracy"] for point in points],
        text=[f"from {point['threshold']:.2f} on: {point['n']} pairs" for point in points],
        error_y=intervals([_rate(point) for point in points]),
        mode="lines+markers",
        line_color=AFTER,
    )
    figure.update_layout(xaxis_title="labelled pairs kept, %", yaxis_title="right, %", showlegend=False)
    return to_html(figure, "accuracy of what a threshold keeps against how much it keeps")


def _rate(point: Mapping[str, Any]) -> dict[str, float]:
    low, high = point["interval"]
    return {"rate": point["accuracy"], "low": low, "high": high}


def _mark_threshold(figure: Any, found: Mapping[str, Any]) -> None:
    if found["threshold"] is not None:
        figure.add_vline(x=found["threshold"], line_dash="dot", line_color=GREY, annotation_text="in force")
