"""A run's judges on labelled pairs: which pairs, what came out, and whether they may label.

The stages `qualify-<judge>` publish verdict replay files in the run's folder; the figures are made from those
files alone, so `cai judge replay` shows the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cai.config import RunConfig
from cai.constitution import Constitution, load_constitution
from cai.errors import ConfigError, JudgeError
from cai.judge.cases import Case
from cai.judge.curve import Method
from cai.judge.fit import Settings
from cai.judge.summary import Kind, Summary, summarise
from cai.judges.calibration import Calibration, calibrate
from cai.judges.labelled import case_of, read_pairs, tests_of
from cai.judges.stages import qualified_judge, qualify_stage
from cai.report.status import shard_reports, summed
from cai.rows import LabelledPair, Recorded
from cai.shard import shard_paths
from cai.store import read_rows


def is_gated(config: RunConfig) -> bool:
    """True where the run has its judges measured before they label; a calibration has done so already."""
    return config.judge.require_qualification and config.judge.calibration is None


def kind_of(config: RunConfig) -> Kind:
    """How the judges of a run work together."""
    return "single" if config.judge.model else "jury" if config.judge.jury else "cascade"


def to_measure(config: RunConfig) -> RunConfig:
    """The config without what depends on the outcome: an older calibration, and the gate."""
    judge = config.judge.model_copy(update={"calibration": None, "require_qualification": False})
    return config.model_copy(update={"judge": judge})


def labelled_pairs(config: RunConfig, constitution: Constitution | None = None) -> list[LabelledPair]:
    """The pairs of `judge.labelled`, or the constitution's own tests. Raises ConfigError where there are none."""
    if config.judge.labelled is not None:
        return [pair for _, pair in read_pairs(Path(config.judge.labelled), LabelledPair)]
    found = tests_of(constitution or load_constitution(config.constitution))
    if not found:
        raise ConfigError(
            f"{config.constitution}: no principle has tests; write some, or give labelled pairs in judge.labelled"
        )
    return found


def principles_a_pair(config: RunConfig) -> int:
    """How many principles each labelled pair is judged under. Raises ConfigError where some name one, some none."""
    named = {pair.principle is not None for pair in labelled_pairs(config)}
    if len(named) > 1:
        raise ConfigError(
            f"{config.judge.labelled}: some pairs name a principle, some do not; give all or none one"
        )
    return 1 if named == {True} else config.judge.principles


def measured(config: RunConfig, judges: Sequence[str]) -> list[tuple[str, list[Case]]]:
    """For each of these judges its identity and what it said, as the stages have published it."""
    found: list[tuple[str, list[Case]]] = []
    for judge in judges:
        rows = list(read_rows(shard_paths(config.root, qualify_stage(judge), 0).rows, Recorded))
        found.append((rows[0].judge if rows else judge, [case_of(row) for row in rows]))
    return found


def settings_of(config: RunConfig, method: Method | None = None) -> Settings:
    """How the figures of a run's judges are made; `method` None: uncalibrated."""
    judge = config.judge
    return Settings(method, judge.threshold, judge.target_accuracy, judge.risk)


def summary_of(config: RunConfig, method: Method | None = None) -> Summary:
    """The figures of the run's judges together."""
    return summarise(measured(config, config.judge.judges), kind_of(config), settings_of(config, method))


def calibration_of(config: RunConfig, method: Method, found: Summary) -> Calibration:
    """A calibration from what the run's judges said about the labelled pairs; `found`: their figures."""
    return calibrate(measured(config, config.judge.judges), method, principles_a_pair(config), found)


def dropped(config: RunConfig) -> dict[str, dict[str, int]]:
    """Labelled pairs that a judge gave no verdicts on, by judge and reason."""
    return {
        judge: summed(shard_reports(config.root, qualify_stage(judge)))["drops"]
        for judge in config.judge.judges
    }


def gate(config: RunConfig, stage: str) -> None:
    """Raises JudgeError where the stage has measured a judge that this run must not let label."""
    judge = qualified_judge(stage)
    if judge is not None and is_gated(config):
        found = summarise(measured(config, [judge]), "single", settings_of(config))
        require_qualified(found, f"models.{judge}", f"; its verdicts are in {config.root / stage}")


def require_qualified(found: Summary, judge: str, more: str = "") -> None:
    """Raises JudgeError where `judge` is refused."""
    if not found.qualified:
        raise JudgeError(
            f"judge.require_qualification: {judge} is refused and labels nothing: {'; '.join(found.reasons)}{more}"
        )
