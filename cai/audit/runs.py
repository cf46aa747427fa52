"""The rows of a run's stages, shard by shard, whatever state the run is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cai.errors import ConfigError
from cai.pipeline import Model, rows_file
from cai.report.status import shard_reports
from cai.store import read_rows


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder."""
    return (path / "config.json").is_file() and (path / "constitution.json").is_file()


def run_rows(root: Path, stage: str, row: type[Model]) -> list[tuple[int, Iterator[Model]]]:
    """The shards that a stage has published, each with its rows, read as they are needed."""
    return [
        (report.shard, read_rows(rows_file(root, stage, report.shard), row))
        for report in shard_reports(root, stage)
    ]


def needs(root: Path, stage: str) -> None:
    """Raise ConfigError where a stage has published nothing yet."""
    if not shard_reports(root, stage):
        raise ConfigError(
            f"{root}: the stage {stage} has published nothing yet; let the run go on, then audit it"
        )
