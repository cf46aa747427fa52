"""How often the labels that a run keeps are wrong, as its judge was measured on labelled pairs.

In a training section `label_smoothing: measured` stands for that number: the flip rate of the robust DPO loss.
It comes from pairs that the judge's threshold and curve had not seen, at the very threshold that the run keeps
labels from. A tie counts as a wrong label.
"""

from __future__ import annotations

import math
from pathlib import Path

from cai.config import Kind, RunConfig, TrainingConfig
from cai.config.training import MEASURED
from cai.errors import ConfigError
from cai.judge.summary import Summary
from cai.judges.calibration import read_calibration
from cai.judges.qualification import is_gated, summary_of
from cai.judges.stages import thresholds


def check_measured(config: RunConfig) -> None:
    """Raise ConfigError where a section asks for the measured error and nothing of the run will measure it."""
    for kind in config.trained:
        section = config.section(kind)
        if section is None or section.args.get("label_smoothing") != MEASURED or is_gated(config):
            continue
        if config.judge.calibration is None:
            raise ConfigError(
                f"{kind}.args.label_smoothing: {MEASURED}: nothing measures this run's judge; set "
                "judge.require_qualification or judge.calibration, or give a number"
            )
        label_error(config, kind)


def with_measured(config: RunConfig, kind: Kind, section: TrainingConfig) -> TrainingConfig:
    """The section with the number that `measured` stands for. Raises ConfigError where there is none."""
    if section.args.get("label_smoothing") != MEASURED:
        return section
    check_measured(config)
    return section.model_copy(update={"args": section.args | {"label_smoothing": label_error(config, kind)}})


def label_error(config: RunConfig, kind: Kind) -> float:
    """Share of wrong labels among those kept. Raises ConfigError where none were kept, or half are wrong."""
    where = f"{kind}.args.label_smoothing: {MEASURED}"
    found = summary_of(config) if is_gated(config) else _calibrated(config, where)
    if found.accuracy_at_threshold is None:
        raise ConfigError(
            f"{where}: of the labelled pairs no label would be kept; label more, or give a number"
        )
    error = 1 - found.accuracy_at_threshold
    if error >= 0.5:
        raise ConfigError(f"{where}: {error:.2f} of the labels are wrong; take a better judge")
    return error


def _calibrated(config: RunConfig, where: str) -> Summary:
    found = read_calibration(Path(config.judge.calibration or "")).figures
    used = thresholds(config)[-1]
    if found.threshold is None or used is None or not math.isclose(found.threshold, used, abs_tol=1e-9):
        raise ConfigError(
            f"{where}: {config.judge.calibration} was measured with labels kept from {found.threshold}, this run "
            f"keeps them from {used}; calibrate with this run's judge section, or give a number"
        )
    return found
