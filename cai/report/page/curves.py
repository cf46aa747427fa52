"""The curves of each training, from the numbers that its trainer logged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import orjson
from markupsafe import Markup

from cai.given import open_given
from cai.report.plots import PALETTE, to_html
from cai.train.findings import gigabytes

POINTS = 400  # a line at most
FILE = "metrics.jsonl"
PANELS = {  # what the trainer calls it: what people call it, and its axis
    "loss": ("loss on the training rows", "loss"),
    "eval_loss": ("loss on rows held back from the training", "loss"),
    "rewards/margins": ("reward margin of the chosen over the rejected reply", "margin"),
    "rewards/accuracies": ("share of pairs whose chosen reply has the higher reward", "accuracy"),
    "reward": ("mean reward of the replies", "reward"),
}


def training_view(root: Path, training: Mapping[str, Any]) -> dict[str, Any] | None:
    """A table of the trainings and a plot for each number that some of them logged; None where nothing was trained."""
    if not training:
        return None
    logs = {model: read_log(root / "models" / model / FILE) for model in training}
    rows = [_cells(model, report) for model, report in training.items()]
    plots = [plot for metric in PANELS if (plot := _plot(metric, logs)) is not None]
    return {"rows": rows, "plots": plots}


def read_log(path: Path) -> dict[int, dict[str, float]]:
    """Numbers by step, thinned to POINTS. A resumed training logs steps twice: the later ones count.

    A line that a kill cut short is passed over; a missing file has no steps.
    """
    found: dict[int, dict[str, float]] = {}
    for record in _records(path):
        found[record["step"]] = {name: record[name] for name in PANELS if name in record}
        if len(found) > 2 * POINTS:
            last = max(found)
            found = {
                step: found[step] for at, step in enumerate(sorted(found)) if at % 2 == 0 or step == last
            }
    return found


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with open_given(path) as file:
        for line in file:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield record


def _plot(metric: str, logs: Mapping[str, dict[int, dict[str, float]]]) -> Markup | None:
    import plotly.graph_objects as go

    title, axis = PANELS[metric]
    figure = go.Figure()
    for colour, (model, log) in zip(
        cycle(PALETTE[1:]), logs.items(), strict=False
    ):  # the first is the base's
        steps = [step for step in sorted(log) if metric in log[step]]
        if steps:
            values = [log[step][metric] for step in steps]
            figure.add_scatter(name=model, x=steps, y=values, mode="lines", line_color=colour)
    if not figure.data:
        return None
    figure.update_layout(xaxis_title="step", yaxis_title=axis, showlegend=True)
    return to_html(figure, title, height=280)


def _cells(model: str, report: Mapping[str, Any]) -> list[str]:
    """Model, rows, steps, final loss, seconds, tokens a second, peak memory; a dash for what was not recorded."""
    rows, speed = (report.get("found") or {}).get("rows"), report.get("speed") or {}
    tokens, memory, loss = speed.get("tokens_per_s"), speed.get("peak_memory"), report.get("loss")
    return [
        model,
        f"{rows['rows']:,}" if rows else "–",
        f"{report['steps']:,}",
        "–" if loss is None else f"{loss:.3f}",
        f"{report['seconds']:,.0f}",
        "–" if tokens is None else f"{tokens:,.0f}",
        "–" if memory is None else gigabytes(memory),
    ]
