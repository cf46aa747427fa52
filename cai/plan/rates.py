"""What a run has seen so far: how often a critique finds a violation, how long replies are."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cai.rows import JudgedSteps, Revision
from cai.shard import ShardReport, read_manifest
from cai.stepwise import STEPS
from cai.store import read_rows

SAMPLE = 2000  # rows that are looked at; a share over so many is known to a point or two
CHARACTERS_A_TOKEN = 4.0  # of English text, where the run has no call to measure it on


class Rates(NamedTuple):
    """Shares over the run's own rows; 1 where it has none, so that an estimate is then the most there can be.

    `rounds`: of one reply, None where there are no rows. `violated`: of critiques. `changed`: of replies. `steps`: of
    one reply, None where none is judged yet.
    """

    rounds: float | None
    violated: float
    changed: float
    steps: float | None


class PerCall(NamedTuple):
    """Mean tokens of a call."""

    prompt: float
    completion: float


def rates_of(root: Path) -> Rates:
    """The shares over the first rows that the run's stages have published."""
    files = sorted((root / "revise").glob("rows-*.jsonl"))
    rows = list(islice((row for file in files for row in read_rows(file, Revision)), SAMPLE))
    rounds = [done for row in rows for done in row.rounds]
    files = sorted((root / STEPS).glob("rows-*.jsonl"))
    judged = [
        len(row.steps) for row in islice((row for f in files for row in read_rows(f, JudgedSteps)), SAMPLE)
    ]
    steps = sum(judged) / len(judged) if judged else None
    if not rows or not rounds:
        return Rates(None, 1.0, 1.0, steps)
    return Rates(
        rounds=len(rounds) / len(rows),
        violated=sum(done.violated for done in rounds) / len(rounds),
        changed=sum(row.changed for row in rows) / len(rows),
        steps=steps,
    )


def tokens_a_call(root: Path, stage: str) -> PerCall | None:
    """Mean tokens of the calls behind a stage's published rows; None where there are none."""
    reports = [found for path in (root / stage).glob("manifest-*.json") if (found := read_manifest(path))]
    calls = sum(map(_calls, reports))
    if not calls:
        return None
    return PerCall(
        sum(report.prompt_tokens for report in reports) / calls,
        sum(report.completion_tokens for report in reports) / calls,
    )


def _calls(report: ShardReport) -> int:
    return report.calls_made + report.calls_replayed
