"""The report of a run: one HTML file that needs no network. Text of models is escaped by the template engine."""

from __future__ import annotations

import difflib
import heapq
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cai.calibration import read_calibration
from cai.config import RunConfig
from cai.config.training import evaluated
from cai.models.base import derive_seed
from cai.models.metrics import engine_lines
from cai.pipeline import read_stage, shards_of
from cai.report.coverage import write_coverage
from cai.report.coverage_view import coverage_plot
from cai.report.edit import write_edit
from cai.report.edit_view import change_line, lines_of
from cai.report.filter import judge_stage, write_filter
from cai.report.goodhart import TITLES, moved_lines, reply_rows, warning_lines
from cai.report.plots import (
    confidence_plot,
    evaluation_plot,
    reliability_plot,
    risk_plot,
    shares_plot,
    threshold_plot,
    visible,
)
from cai.report.rounds import rounds_view
from cai.report.side_by_side import pairs_view
from cai.report.status import run_status, shard_reports
from cai.report.tables import METRICS, percent
from cai.rows import Revision
from cai.store import write_bytes

EXAMPLES = 8
GROUPS = ("kind", "source", "tag", "principle")
PLOTLY_HERE = "<!-- plotly -->"  # no text of a run can hold this: it would be escaped
SHOWN = 15  # values of a group; filter.json has all of them


def write_report(config: RunConfig) -> Path:
    """Write `report.html` into the run's folder and return its path; what the run does not have (yet) is left out."""
    from plotly.offline import get_plotlyjs

    status = run_status(config.root)
    examples = _revisions(config)
    kept = write_filter(config) if _finished(config, judge_stage(config)) else None
    coverage = write_coverage(config)
    edit = write_edit(config) if kept else None
    trust = _trust(config, status)
    environment = Environment(
        loader=PackageLoader("cai", "report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(visible=visible, percent=percent, change=change_line)
    environment.filters.update(share=_share, number=_number, signed=_signed)
    evaluation = {name: status["evaluation"][name] for name in evaluated(status["evaluation"])}
    page = environment.get_template("page.html.j2").render(
        status=status,
        engines=engine_lines(status["engines"]),
        rounds=rounds_view(status["rounds"]),
        metrics=METRICS,
        models={
            "policy": config.models[config.policy.model].model,
            "critic": config.models[config.critic.model].model,
            "judge": ", ".join(config.models[name].model for name in config.judge.judges),
        },
        pairs=pairs_view(status["evaluation"]),
        replies={
            "titles": TITLES,
            "rows": list(reply_rows(evaluation)),
            "moved": moved_lines(evaluation),
            "warnings": warning_lines(evaluation),
        },
        rows={name: [percent(rates.get(metric)) for metric in METRICS] for name, rates in evaluation.items()},
        coverage=coverage,
        coverage_plot=coverage_plot(coverage),
        edit=edit,
        edit_lines=list(lines_of(edit)) if edit else [],
        edit_moves=_moves(edit) if edit else [],
        trust=trust,
        trust_plots=trust and {"reliability": reliability_plot(trust), "risk": risk_plot(trust)},
        filter=kept,
        filter_view=None if kept is None else _filter_view(kept),
        examples=[_example(revision) for revision in examples],
        plotly=Markup(PLOTLY_HERE),
        evaluation_plot=evaluation_plot(evaluation) if evaluation else "",
    )
    path = config.root / "report.html"
    head, tail = page.encode("utf-8", "replace").split(PLOTLY_HERE.encode())
    # megabytes of script stay out of the template: text with one wide character takes four bytes a character
    write_bytes(
        path, b"".join((head, b"<script>", get_plotlyjs().encode(), b"</script>", tail.rstrip(), b"\n"))
    )
    return path


def _trust(config: RunConfig, status: dict[str, Any]) -> dict[str, Any] | None:
    """What is known of the judge from labelled pairs: measured in this run, or by the calibration that it applies."""
    if config.judge.calibration is not None and Path(config.judge.calibration).is_file():
        return read_calibration(Path(config.judge.calibration)).figures.model_dump(mode="json")
    found: dict[str, Any] | None = status["qualification"]
    return found


def _finished(config: RunConfig, stage: str) -> bool:
    return len(shard_reports(config.root, stage)) >= shards_of(config, stage)


def _filter_view(found: dict[str, Any]) -> dict[str, Any]:
    """The plots and the largest values of each group, with the count of those that are not shown."""
    groups = {group: list(found[group].items()) for group in GROUPS}
    plotted = {
        group: shares_plot(groups[group][:SHOWN])
        for group in ("principle", "tag")
        if len(groups[group]) > 1 and found["after"]
    }
    return {
        "groups": [(group, values[:SHOWN], _others(values[SHOWN:])) for group, values in groups.items()],
        "shares": plotted,
        "confidence": confidence_plot(found),
        "thresholds": threshold_plot(found),
    }


def _share(value: float | None) -> str:
    """A share in per cent, without the sign."""
    return "–" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _signed(points: float | None) -> str:
    return "–" if points is None else f"{round(points, 1) + 0.0:+.1f}"  # no -0.0


def _others(values: list[tuple[str, dict[str, Any]]]) -> dict[str, int] | None:
    if not values:
        return None
    before, after = (sum(value[side]["n"] for _, value in values) for side in ("before", "after"))
    return {"values": len(values), "before": before, "after": after}


def _moves(edit: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What rows moved, by the title of their table."""
    judged = [(f"comparisons ({stage})", found["met"]) for stage, found in edit["judgments"].items()]
    return [("replies", edit["revisions"]["met"]), *judged] if edit["revisions"] else judged


def _revisions(config: RunConfig) -> list[Revision]:
    """Some changed revisions, drawn by a hash of their ids."""
    done = read_stage(config, "revise", Revision) if _finished(config, "revise") else ()
    changed = (revision for revision in done if revision.changed)
    return heapq.nsmallest(EXAMPLES, changed, key=lambda row: derive_seed(config.seed, row.id, "report"))


def _example(revision: Revision) -> dict[str, Any]:
    return {
        "id": revision.id,
        "prompt": revision.reply.prompt.messages[-1].content,
        "diff": word_diff(revision.reply.text, revision.final),
        "critiques": [(done.principle, done.critique) for done in revision.rounds if done.violated],
    }


def word_diff(before: str, after: str) -> list[tuple[str, str]]:
    """Runs of words as (kind, text), kind being same, del or ins."""
    old, new = before.split(), after.split()
    runs: list[tuple[str, str]] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if kind == "equal":
            runs.append(("same", " ".join(old[i:j])))
            continue
        runs += [(tag, " ".join(words)) for tag, words in (("del", old[i:j]), ("ins", new[k:m])) if words]
    return runs
