"""How long replies were and how long what came of them is: figures and a histogram over a logarithmic scale."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from markupsafe import Markup

from cai.report.page.scan import STEPS, Growth
from cai.report.plots import AFTER, BEFORE, to_html

BARS = 24  # bars a side at most; of wider distributions, bars are wider


def lengths_view(growth: Growth) -> dict[str, Any] | None:
    """Lengths in characters before and after the revision; None where nothing was revised. Medians right to 2 %."""
    n = growth.chars["n"]
    if not n:
        return None
    return {
        "n": n,
        "rows": [
            ("reply", growth.chars["before"] / n, median(growth.before)),
            ("revision", growth.chars["after"] / n, median(growth.after)),
        ],
        "ratio": middle(growth.ratio),
        "longer": growth.chars["longer"] / n,
        "plot": _plot(growth),
    }


def middle(bins: Counter[int]) -> float:
    """2 to the median bin: of ratios, which are rounded to the nearest bin."""
    return float(2 ** (_median_bin(bins) / STEPS))


def median(bins: Counter[int]) -> float:
    """The median length, taken from the middle of its bin."""
    return float(2 ** ((_median_bin(bins) + 0.5) / STEPS))


def _median_bin(bins: Counter[int]) -> int:
    seen, half = 0, bins.total() / 2
    for step in sorted(bins):
        seen += bins[step]
        if seen >= half:
            return step
    raise ValueError("nothing has no median")


def _plot(growth: Growth) -> Markup:
    """Bars of a quarter of a doubling each, wider ones where there would be too many."""
    import plotly.graph_objects as go

    seen = growth.before.keys() | growth.after.keys()
    width = STEPS // 4
    while max(seen) // width - min(seen) // width >= BARS:
        width *= 2
    places = list(range(min(seen) // width, max(seen) // width + 1))
    figure = go.Figure()
    for name, bins, colour in (("reply", growth.before, BEFORE), ("revision", growth.after, AFTER)):
        bars: Counter[int] = Counter()
        for step, count in bins.items():
            bars[step // width] += count
        figure.add_bar(
            name=name,
            x=[_span(at, width) for at in places],
            y=[bars[at] for at in places],
            marker_color=colour,
        )
    figure.update_layout(
        barmode="group", bargap=0.15, xaxis_title="characters", yaxis_title="texts", xaxis_type="category"
    )
    return to_html(figure, "length of replies and of what their revision made of them")


def _span(at: int, width: int) -> str:
    """The lengths of a bar: whole characters."""
    low, high = (math.ceil(2 ** ((at + side) * width / STEPS) - 1e-9) for side in (0, 1))
    return f"{low:,}" if high - 1 <= low else f"{low:,}–{high - 1:,}"
