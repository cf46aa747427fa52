"""Prefect artifacts, readable in the UI and the API: for each stage a table of counts and a page of samples, and
what qualification, coverage, training and evaluation came to. All of it is read from the run's folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from cai.config import RunConfig
from cai.config.training import evaluated
from cai.judges.stages import joint_stage
from cai.pipeline import read_stage
from cai.printable import printable
from cai.report.coverage_view import rows_of
from cai.report.markdown import escaped, quoted, shown
from cai.report.status import judges_used, read_json, shard_reports, summed
from cai.report.tables import METRICS
from cai.rounds import sampled_model
from cai.rows import Judgment, Reply, Revision
from cai.train.plan import REPORT

SAMPLES = 3
Rows = list[dict[str, Any]]


def key_of(config: RunConfig, stage: str) -> str:
    """Artifact keys are lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{config.name}-{stage}".lower()).strip("-")


async def show(config: RunConfig, part: str) -> None:
    """The artifacts of a part of a run that is there now; `part`: as in `cai.conduct.work.Work`."""
    if part.startswith("train-"):
        title, rows = None, _training(config.root, part.removeprefix("train-"))
    elif part in TABLES:
        title, read = TABLES[part]
        rows = read(config.root)
    else:
        await publish_stage(config, part)
        return
    await acreate_table_artifact(
        table=rows, key=key_of(config, part), description=title and f"{config.name}: {title}"
    )


def _qualification(root: Path) -> Rows:
    found = read_json(root / "qualification.json")
    return [*_values(found), *({"what": "reason", "value": reason} for reason in found["reasons"])]


def _coverage(root: Path) -> Rows:
    return list(rows_of(read_json(root / "coverage.json")))


def _evaluation(root: Path) -> Rows:
    found = read_json(root / "evaluation.json")
    rows = [
        {"model": name, "metric": metric, **found[name][metric]}
        for name in evaluated(found)
        for metric in METRICS
    ]
    compared = found.get("side_by_side", {}).items()
    rates = ("rate", "low", "high", "n")
    return rows + [
        {"model": name, "metric": metric, **{key: pair[metric][key] for key in rates}}
        for name, pair in compared
        for metric in ("win_rate", "equal_length")
    ]


def _training(root: Path, model: str) -> Rows:
    return _values(read_json(root / "models" / model / REPORT))


def _values(found: dict[str, Any]) -> Rows:
    """The plain values of a report, one a row."""
    return [
        {"what": name, "value": value} for name, value in found.items() if not isinstance(value, dict | list)
    ]


TABLES: dict[str, tuple[str | None, Callable[[Path], Rows]]] = {
    "qualification": (None, _qualification),
    "coverage": ("what each principle did", _coverage),
    "evaluation": (None, _evaluation),
}


async def publish_stage(config: RunConfig, stage: str) -> None:
    """One table (rows, drops by reason, calls, tokens, cost) and, for stages with text, a few samples."""
    totals = summed(shard_reports(config.root, stage))
    drops = totals.pop("drops")
    table: list[dict[str, Any]] = [{"what": name, "value": value} for name, value in totals.items()]
    table += [{"what": f"dropped: {reason}", "value": count} for reason, count in drops.items()]
    await acreate_table_artifact(
        table=table, key=key_of(config, stage), description=f"{config.name}: {stage}"
    )
    if (used := judges_used(config.root, config.judge.model_dump(), stage)) is not None:
        rows: list[dict[str, Any]] = [use.model_dump() for use in used.judges]
        rows += [{"judge": "all", **used.model_dump(exclude={"judges", "saving", "kind"})}]
        rows += [{"judge": "saving", **used.saving.model_dump()}] if used.saving else []
        description = f"{config.name}: {used.kind} of {stage}"
        await acreate_table_artifact(
            table=rows, key=key_of(config, f"judges-{stage}"), description=description
        )
    if lines := sample_lines(config, stage):
        markdown = f"# {config.name}: {stage}\n\n" + "\n\n".join(lines)
        await acreate_markdown_artifact(markdown=markdown, key=key_of(config, f"{stage}-samples"))


def sample_lines(config: RunConfig, stage: str) -> list[str]:
    """The first few rows of a stage as markdown; whatever a model wrote is escaped and kept in quotes."""
    if stage == "generate" or sampled_model(stage) is not None:
        rows = islice(read_stage(config, stage, Reply), SAMPLES)
        return [
            f"**{shown(row.id)}**\n\n{quoted(row.prompt.messages[-1].content)}\n\n{quoted(row.text)}"
            for row in rows
        ]
    if stage == "revise":
        changed = (row for row in read_stage(config, stage, Revision) if row.changed)
        return [_revision(row) for row in islice(changed, SAMPLES)]
    if joint_stage(stage) is not None:
        return [_judgment(row) for row in islice(read_stage(config, stage, Judgment), SAMPLES)]
    return []


def _revision(row: Revision) -> str:
    rounds = "\n\n".join(f"*{shown(r.principle)}*\n\n{quoted(r.critique)}" for r in row.rounds if r.violated)
    return f"**{shown(row.id)}**\n\n{quoted(row.reply.text)}\n\n{rounds}\n\n{quoted(row.final)}"


def _judgment(row: Judgment) -> str:
    verdicts = ", ".join(
        f"{v.judge}, {v.principle} {v.order}: {v.failure or f'{v.p:.2f}'}" for v in row.verdicts
    )
    label = row.state if row.p is None else f"{row.state}, p(a) = {row.p:.2f}"
    said = f"**{shown(row.id)}** {label} ({escaped(printable(verdicts))})"
    return f"{said}\n\n{quoted(row.a.text)}\n\n{quoted(row.b.text)}"
