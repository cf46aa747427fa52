"""How plots get into a page: data that the page draws itself, a name for who cannot see it, and its figures as a table.

Nothing here is a script: the page has one of its own, and no text of a run is ever a part of it.
"""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

BEFORE, AFTER, OTHER = "#76859a", "#2f7ed8", "#c8701e"  # each 3 : 1 or more against white and near-black
PALETTE = [BEFORE, AFTER, OTHER, "#2e9e6b", "#a259c4"]
GREY = "#888"
GRID = "rgba(128,128,128,0.25)"
HEIGHT = 340  # pixels
LABEL = 32  # characters of a name on an axis
LISTED = 60  # lines in the table of a plot; of more, some at equal distances
_KEPT = "\n\t\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}\N{SOFT HYPHEN}"
_HIDDEN = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}  # Unicode categories of characters that steer, or are none


def visible(text: str) -> str:
    """A name in which every character can be seen: control, format and bidi characters replaced."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def visible_text(text: str) -> str:
    """The same for a text of any script, which keeps its lines, its blanks and what joins its letters."""
    if text.isprintable():
        return text
    hidden = {char for char in set(text) if unicodedata.category(char) in _HIDDEN and char not in _KEPT}
    return text.translate({ord(char): "\N{REPLACEMENT CHARACTER}" for char in hidden})


def axis_label(name: str) -> str:
    """A name as plotly shows it as it is: it takes some tags for markup."""
    name = visible(name)
    return html.escape(name if len(name) <= LABEL else name[: LABEL - 1] + "…")


def intervals(points: Sequence[Mapping[str, Any]], colour: str = GREY) -> dict[str, Any]:
    """Error bars in per cent of rates with `rate`, `low` and `high`."""
    return {
        "color": colour,
        "array": [100 * (point["high"] - point["rate"]) for point in points],
        "arrayminus": [100 * (point["rate"] - point["low"]) for point in points],
    }


def to_html(figure: Any, title: str, height: int = HEIGHT) -> Markup:
    """A figure of plotly as a part of the page; the page itself brings plotly. `title`: what it shows, in words."""
    figure.update_layout(
        height=height, margin={"t": 30, "b": 50, "l": 60, "r": 20}, font_color=GREY,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(128,128,128,0.08)", colorway=PALETTE,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_traces(marker_line_width=0)
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
    plain = figure.to_dict()
    plain["layout"].pop("template", None)  # the page's own colours; plotly's are kilobytes a plot
    data = json.dumps({"data": plain["data"], "layout": plain["layout"]}, separators=(",", ":"))
    return Markup(
        '<figure class="plot"><figcaption>{}</figcaption>'
        '<div class="drawing" role="img" aria-label="{}" style="min-height:{}px"></div>'
        '<script type="application/json">{}</script>{}</figure>'
    ).format(
        title, f"Plot: {title}. Its figures follow.", height,
        Markup(data.replace("<", "\\u003c").replace("&", "\\u0026")), _table(plain, title),
    )  # fmt: skip


class Line(NamedTuple):
    """The figures of a plot at one place of an axis, by the name of their series."""

    place: str
    values: dict[str, str]


def _table(figure: Mapping[str, Any], title: str) -> Markup:
    """The figures of a plot, for who cannot see or point at it."""
    traces = [trace for trace in figure["data"] if trace.get("x")]
    ticks = figure["layout"].get("yaxis", {})
    lying = "tickvals" in ticks or any(trace.get("orientation") == "h" for trace in traces)
    names = [trace.get("name") or "value" for trace in traces]
    axes = [figure["layout"].get(axis, {}).get("title", {}).get("text", "") for axis in ("xaxis", "yaxis")]
    place, unit = reversed(axes) if lying else axes
    lines: dict[Any, Line] = {}
    for name, trace in zip(names, traces, strict=True):
        for at, value in _points(trace, lying):
            at = round(at) if "tickvals" in ticks else at
            label = html.unescape(ticks["ticktext"][at]) if "tickvals" in ticks else _shown(at)
            lines.setdefault(at, Line(label, {})).values[name] = value
    found = list(lines.values()) if lying or _is_text(lines) else [lines[at] for at in sorted(lines)]
    step = -(-len(found) // LISTED) or 1
    head = Markup("").join(Markup('<th scope="col" class="n">{}</th>').format(name) for name in names)
    rows = Markup("").join(_row(line, names) for line in found[::step])
    note = f"one place in {step}" if step > 1 else ""
    return Markup(
        '<details class="figures"><summary>Figures{}</summary><div class="wide" role="group" tabindex="0" '
        'aria-label="Figures: {}"><table><tr><th scope="col">{}</th>{}</tr>{}</table></div></details>'
    ).format(
        f" ({'; '.join(filter(None, (unit, note)))})" if unit or note else "",
        title,
        place or "place",
        head,
        rows,
    )


def _points(trace: Mapping[str, Any], lying: bool) -> Iterator[tuple[Any, str]]:
    """Place and value of each point, the value with its interval where there is one."""
    places, values = (trace["y"], trace["x"]) if lying else (trace["x"], trace["y"])
    bars = trace.get("error_x" if lying else "error_y", {})
    for index, (place, value) in enumerate(zip(places, values, strict=True)):
        shown = _shown(value)
        if value is not None and "array" in bars:
            low, high = value - bars["arrayminus"][index], value + bars["array"][index]
            shown += f" [{_shown(low)}, {_shown(high)}]"
        yield place, shown


def _row(line: Line, names: Sequence[str]) -> Markup:
    cells = Markup("").join(Markup('<td class="n">{}</td>').format(line.values.get(n, "–")) for n in names)
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(line.place, cells)


def _is_text(places: Mapping[Any, Any]) -> bool:
    return any(isinstance(place, str) for place in places)


def _shown(value: Any) -> str:
    """A number short enough for a table; a text as it is, for axes hold it escaped."""
    if value is None:
        return "–"
    return (
        html.unescape(value)
        if isinstance(value, str)
        else f"{value:,.4g}"
        if abs(value) < 1000
        else f"{value:,.0f}"
    )
