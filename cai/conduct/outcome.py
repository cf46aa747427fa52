"""What a run leaves behind, dataset and report: made again only where something that goes into it has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai.accounts.budget import unbudgeted
from cai.config import RunConfig
from cai.export.dataset import export_run, part_file, parts_of
from cai.report.coverage import write_coverage
from cai.report.edit import write_edit
from cai.report.filter import write_filter
from cai.report.page import write_report
from cai.report.status import read_json, run_status, stage_names
from cai.runfolder.made import made, made_of, note_made
from cai.runfolder.previous import LINK
from cai.store import file_sha256


def publish_dataset(config: RunConfig, preference: bool) -> dict[str, int]:
    """Publish the dataset with its card, and what is known of its preferences if it has some; rows a part."""
    root = config.root
    name, stages = "dataset", _stages(config)
    if not preference:  # of the recipe `paper`, whose preferences come later
        name, later = "demonstrations", ("pairs", "sft-", "dpo-", "step")
        stages = [stage for stage in stages if not stage.startswith(later)]
    inputs = _inputs(config, stages)
    if (known := made(root, name, inputs)) is not None:
        return dict(known)
    if preference:
        write_filter(config)
        write_coverage(config)
        write_edit(config)
    counts = export_run(config)
    files = [part_file(root, "sft")]
    if preference:
        files += [part_file(root, part) for part in parts_of(config) if part != "sft"]
        files += [root / "dataset" / "README.md"]
        files += [root / f"{found}.json" for found in ("filter", "coverage", "edit")]
    note_made(root, name, inputs, [file for file in files if file.is_file()], counts)
    return counts


def publish_report(config: RunConfig) -> None:
    """Write the report page."""
    status = run_status(config.root)
    stages = _stages(config)
    inputs = _inputs(config, stages, {key: status[key] for key in status if key not in ("seconds", "report")})
    if made(config.root, "report", inputs) is None:
        note_made(config.root, "report", inputs, [write_report(config)], "report.html")


def _stages(config: RunConfig) -> list[str]:
    return stage_names(config.judge.jury or config.judge.cascade, config.rounds, bool(config.stepwise))


def _inputs(config: RunConfig, stages: list[str], *more: Any) -> str:
    """Digest of what these stages have published, and of what else decides what is made of it."""
    root, previous = config.root, config.root / LINK
    calibration = config.judge.calibration and file_sha256(Path(config.judge.calibration))
    before = previous.readlink().name if previous.is_symlink() else None
    stored = [unbudgeted(read_json(root / "config.json")), read_json(root / "constitution.json")]
    return made_of(root, stages, stored, calibration, before, *more)
