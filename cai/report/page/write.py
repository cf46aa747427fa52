"""Writes the report page: gathers what a run's folder has, draws its plots and puts all of it into one file.

Text of models is escaped by the template engine. The page may run two scripts, ours and plotly, which it names by
their digests, and may fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cai.config import RunConfig
from cai.config.training import evaluated
from cai.judges.calibration import read_calibration
from cai.pipeline import read_stage, shards_of
from cai.report.coverage import write_coverage
from cai.report.coverage_view import coverage_plot
from cai.report.edit import write_edit
from cai.report.edit_view import change_line
from cai.report.filter import judge_stage, write_filter
from cai.report.page.curves import training_view
from cai.report.page.funnel import funnel_plot
from cai.report.page.judge_plots import reliability_plot, risk_plot
from cai.report.page.lengths import lengths_view
from cai.report.page.lineage import figures_of, lineage_of
from cai.report.page.rows import examples_of, worst_of
from cai.report.page.scan import Scan, empty_scan, scan_judgments, scan_revisions
from cai.report.page.sections import sections_of
from cai.report.page.tags import tags_view
from cai.report.page.views import edit_view, evaluation_view, filter_view
from cai.report.plots import visible, visible_text
from cai.report.rounds import rounds_view
from cai.report.status import run_status, shard_reports
from cai.report.tables import percent
from cai.rows import Judgment, Revision
from cai.runfolder.previous import stored_constitution
from cai.store import write_bytes

SCRIPTS_HERE = "<!-- scripts -->"  # no text of a run can hold this: it would be escaped


def write_report(config: RunConfig) -> Path:
    """Write `report.html` into the run's folder and return its path; what the run does not have (yet) is left out."""
    from plotly.offline import get_plotlyjs

    view = _gathered(config)
    sections, absent = sections_of(view)
    scripts = [get_plotlyjs().encode(), (files("cai.report.page") / "page.js").read_bytes()]
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            **view, sections=sections, absent=absent, policy=_policy(scripts), scripts=Markup(SCRIPTS_HERE)
        )
    )
    path = config.root / "report.html"
    head, tail = page.encode("utf-8", "replace").split(SCRIPTS_HERE.encode())
    # megabytes of script stay out of the template: text with one wide character takes four bytes a character
    written = [part for script in scripts for part in (b"<script>", script, b"</script>")]
    write_bytes(path, b"".join((head, *written, tail.rstrip(), b"\n")))
    return path


def _gathered(config: RunConfig) -> dict[str, Any]:
    """Everything that the templates show, by name."""
    status = run_status(config.root)
    kept = write_filter(config) if _finished(config, judge_stage(config)) else None
    coverage = write_coverage(config)
    edit = write_edit(config) if kept else None
    trust = _trust(config, status)
    evaluation = {name: status["evaluation"][name] for name in evaluated(status["evaluation"])}
    found = _scan(config)
    return {
        "status": status,
        "figures": figures_of(status),
        "lineage": list(lineage_of(config, status, stored_constitution(config.root))),
        **evaluation_view(status["evaluation"], evaluation),
        "funnel": funnel_plot(status["stages"]),
        "rounds": rounds_view(status["rounds"]),
        "coverage": coverage,
        "coverage_plot": coverage_plot(coverage),
        **edit_view(edit),
        "trust": trust,
        "trust_plots": trust and {"reliability": reliability_plot(trust), "risk": risk_plot(trust)},
        "judges": status["judges"],
        "filter": kept,
        "filter_view": None if kept is None else filter_view(kept),
        "lengths": lengths_view(found.growth),
        "unmoved": found.unmoved["n"],
        "tags": tags_view(config, found, list(evaluation)),
        "training": training_view(config.root, status["training"]),
        "worst": worst_of(found),
        "examples": examples_of(found),
    }


def _scan(config: RunConfig) -> Scan:
    """One pass over the revisions, and over each stage of judgments that says something about them or about pairs."""
    found = empty_scan()
    if _finished(config, "revise"):
        scan_revisions(found, read_stage(config, "revise", Revision), config.seed)
    pairs = judge_stage(config)
    for stage in dict.fromkeys(("judge", pairs)):
        if _finished(config, stage):
            rows = read_stage(config, stage, Judgment)
            scan_judgments(found, rows, verify=stage == "judge", label=stage == pairs)
    return found


def _trust(config: RunConfig, status: dict[str, Any]) -> dict[str, Any] | None:
    """What is known of the judge from labelled pairs: measured in this run, or by the calibration that it applies."""
    if config.judge.calibration is not None and Path(config.judge.calibration).is_file():
        return read_calibration(Path(config.judge.calibration)).figures.model_dump(mode="json")
    found: dict[str, Any] | None = status["qualification"]
    return found


def _finished(config: RunConfig, stage: str) -> bool:
    return len(shard_reports(config.root, stage)) >= shards_of(config, stage)


def _policy(scripts: list[bytes]) -> str:
    """A content security policy: no address, no script but these."""
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment() -> Environment:
    """Everything that a template prints is escaped, and cannot steer the text around it."""
    environment = Environment(
        loader=PackageLoader("cai", "report/page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: (
            visible_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.filters.update(visible=visible, percent=percent, change=change_line)
    environment.filters.update(share=_share, number=_number, signed=_signed)
    return environment


def _share(value: float | None) -> str:
    """A share in per cent, without the sign."""
    return "–" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _signed(points: float | None) -> str:
    return "–" if points is None else f"{round(points, 1) + 0.0:+.1f}"  # no -0.0
