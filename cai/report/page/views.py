"""What the templates of evaluation, filter and edit show, from the run's JSON files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai.report.edit_view import lines_of
from cai.report.goodhart import TITLES, moved_lines, reply_rows, warning_lines
from cai.report.page.judge_plots import confidence_plot, evaluation_plot, shares_plot, threshold_plot
from cai.report.side_by_side import pairs_view
from cai.report.tables import METRICS, percent

GROUPS = ("kind", "source", "tag", "principle")
SHOWN = 15  # values of a group; filter.json has all of them


def evaluation_view(whole: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Rates, comparisons and how the replies read. `whole`: evaluation.json; `evaluation`: of it, the models."""
    return {
        "metrics": METRICS,
        "rows": {
            name: [percent(rates.get(metric)) for metric in METRICS] for name, rates in evaluation.items()
        },
        "evaluation_plot": evaluation_plot(evaluation) if evaluation else "",
        "pairs": pairs_view(whole),
        "replies": {
            "titles": TITLES,
            "rows": list(reply_rows(evaluation)),
            "moved": moved_lines(evaluation),
            "warnings": warning_lines(evaluation),
        },
    }


def filter_view(found: Mapping[str, Any]) -> dict[str, Any]:
    """The plots and the largest values of each group, with the count of those that are not shown."""
    groups = {group: list(found[group].items()) for group in GROUPS}
    plotted = {
        group: shares_plot(group, groups[group][:SHOWN])
        for group in ("principle", "tag")
        if len(groups[group]) > 1 and found["after"]
    }
    return {
        "groups": [(group, values[:SHOWN], _others(values[SHOWN:])) for group, values in groups.items()],
        "shares": plotted,
        "confidence": confidence_plot(found),
        "thresholds": threshold_plot(found),
    }


def edit_view(edit: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an edit of the constitution changed, and what rows it moved; nothing of a run without one."""
    if not edit:
        return {"edit": None, "edit_lines": [], "edit_moves": []}
    moves = [("replies", edit["revisions"]["met"])] if edit["revisions"] else []
    moves += [(f"comparisons ({stage})", found["met"]) for stage, found in edit["judgments"].items()]
    return {"edit": edit, "edit_lines": list(lines_of(edit)), "edit_moves": moves}


def _others(values: list[tuple[str, dict[str, Any]]]) -> dict[str, int] | None:
    if not values:
        return None
    before, after = (sum(value[side]["n"] for _, value in values) for side in ("before", "after"))
    return {"values": len(values), "before": before, "after": after}
