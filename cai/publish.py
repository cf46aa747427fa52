"""A shard of a stage that asks no model: rows and drops in, the same three files out as for any other stage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from cai.rows import Drop, Row
from cai.shard import ShardReport, finished, shard_paths, write_manifest
from cai.store import RowsWriter


class ShardWriter:
    """Writes the rows, drops and manifest of one shard; a context manager. Nothing shows before `publish`."""

    def __init__(self, root: Path, stage: str, shard: int) -> None:
        self._stage, self._shard = stage, shard
        self._paths = shard_paths(root, stage, shard)
        self._kept, self._dropped = RowsWriter(self._paths.rows), RowsWriter(self._paths.drops)
        self._reasons: Counter[str] = Counter()
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.discard()
        self._dropped.discard()

    def add(self, row: Row) -> None:
        """Keep a row, or a drop under its reason."""
        if isinstance(row, Drop):
            self._reasons[row.reason] += 1
            self._dropped.write(row)
        else:
            self._kept.write(row)

    def publish(self, inputs_digest: str) -> ShardReport:
        """Put rows, drops and manifest in place; every row that came in is one of the two."""
        report = ShardReport(
            stage=self._stage,
            shard=self._shard,
            inputs_digest=inputs_digest,
            rows_in=self._kept.rows + self._dropped.rows,
            rows_out=self._kept.rows,
            drops=dict(sorted(self._reasons.items())),
            calls_made=0,
            calls_replayed=0,
            failed_calls={},
            prompt_tokens=0,
            completion_tokens=0,
            cached_tokens=0,
            cost=0.0,
            cost_made=0.0,
            corrupt_lines=0,
            seconds=round(time.monotonic() - self._started, 3),
            skipped=False,
            rows=self._kept.publish(),
            dropped=self._dropped.publish(),
        )
        write_manifest(self._paths.manifest, report)
        return report


def publish_rows(root: Path, stage: str, shard: int, inputs_digest: str, rows: Iterable[Row]) -> ShardReport:
    """Publish one shard, unless its manifest says that it was made from the same inputs."""
    if (done := finished(shard_paths(root, stage, shard), inputs_digest)) is not None:
        return done
    with ShardWriter(root, stage, shard) as writer:
        for row in rows:
            writer.add(row)
        return writer.publish(inputs_digest)
