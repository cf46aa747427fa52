"""The report of a run: one HTML file that needs no network. Text of models is escaped by the template engine."""

from __future__ import annotations

import difflib
import heapq
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cai.config import RunConfig
from cai.models.base import derive_seed
from cai.pipeline import read_stage
from cai.report.status import run_status
from cai.report.tables import METRICS, percent
from cai.rows import Judgment, Revision
from cai.store import write_text

EXAMPLES = 8


def write_report(config: RunConfig) -> Path:
    """Write `report.html` into the run's folder and return its path."""
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    status = run_status(config.root)
    drawn, violated, examples = _revisions(config)
    states, sure = _judgments(config, "sft-judge" if config.recipe == "paper" else "judge")
    confidence = go.Figure(go.Histogram(x=sure, xbins={"start": 0.5, "end": 1.0, "size": 0.025}))
    confidence.update_layout(
        xaxis_title="confidence of the label, max(p, 1 - p)",
        yaxis_title="judgments",
        shapes=[_line(config.judge.threshold)],
    )
    environment = Environment(
        loader=PackageLoader("cai", "report"), autoescape=True, undefined=StrictUndefined
    )
    evaluation = {
        name: status["evaluation"][name] for name in ("base", "sft", "dpo") if name in status["evaluation"]
    }
    page = environment.get_template("page.html.j2").render(
        status=status,
        metrics=METRICS,
        models={
            "policy": config.models[config.policy.model].model,
            "critic": config.models[config.critic.model].model,
            "judge": ", ".join(config.models[name].model for name in config.judge.judges),
        },
        rows={name: [percent(rates.get(metric)) for metric in METRICS] for name, rates in evaluation.items()},
        drawn=drawn,
        violated=violated,
        states=dict(sorted(states.items())),
        judged=states.total(),
        examples=[_example(revision) for revision in examples],
        plotly=Markup("<script>{}</script>").format(Markup(get_plotlyjs())),
        evaluation_plot=_html(_evaluation_figure(evaluation)),
        confidence_plot=_html(confidence),
    )
    path = config.root / "report.html"
    write_text(path, page.encode("utf-8", "replace").decode())
    return path


def _evaluation_figure(evaluation: dict[str, Any]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, rates in evaluation.items():
        cells = [rates[metric] for metric in METRICS if rates[metric]["rate"] is not None]
        titles = [title for metric, title in METRICS.items() if rates[metric]["rate"] is not None]
        figure.add_bar(
            name=name,
            x=titles,
            y=[100 * cell["rate"] for cell in cells],
            error_y={
                "array": [100 * (cell["high"] - cell["rate"]) for cell in cells],
                "arrayminus": [100 * (cell["rate"] - cell["low"]) for cell in cells],
            },
        )
    figure.update_layout(barmode="group", yaxis_title="% of held-out prompts", yaxis_range=[0, 100])
    return figure


def _html(figure: Any) -> Markup:
    figure.update_layout(
        height=340, margin={"t": 20, "b": 50}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(128,128,128,0.08)",
        font_color="#888",
    )  # fmt: skip
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False))


def _line(threshold: float) -> dict[str, Any]:
    return {
        "type": "line", "x0": threshold, "x1": threshold, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot"}
    }  # fmt: skip


def _revisions(config: RunConfig) -> tuple[Counter[str], Counter[str], list[Revision]]:
    """Critiques and violations by principle, and some changed revisions drawn by a hash of their ids."""
    drawn: Counter[str] = Counter()
    violated: Counter[str] = Counter()

    def changed() -> Iterator[Revision]:
        for revision in read_stage(config, "revise", Revision):
            for done in revision.rounds:
                drawn[done.principle] += 1
                violated[done.principle] += done.violated
            if revision.changed:
                yield revision

    examples = heapq.nsmallest(
        EXAMPLES, changed(), key=lambda row: derive_seed(config.seed, row.id, "report")
    )
    return drawn, violated, examples


def _judgments(config: RunConfig, stage: str) -> tuple[Counter[str], list[float]]:
    states: Counter[str] = Counter()
    sure: list[float] = []
    for judgment in read_stage(config, stage, Judgment):
        states[judgment.state] += 1
        if judgment.p is not None:
            sure.append(max(judgment.p, 1 - judgment.p))
    return states, sure


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
