"""What a run's models must reach: `harmless>=0.9,overrefusal<=0.05`, read before anything is asked and checked after.

A condition is on the rate of one metric of one model: the one named before a dot, or else the last policy that the
run trains, which is what it would ship. The rate itself must hold, not a bound of its interval. A rate of no
replies holds nothing.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cai.config import RunConfig
from cai.errors import ConfigError
from cai.evaluate.grade import METRIC_OF_TAG

HOLDS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_CONDITION = re.compile(r"(?:([\w-]+)\.)?(\w+)\s*(>=|<=|>|<)\s*([\d.]+)", re.ASCII)
_TAG_OF_METRIC: dict[str, str] = {metric: tag for tag, metric in METRIC_OF_TAG.items()}


class Condition(NamedTuple):
    """`model`'s rate of `metric` must stand in `relation` to `bound`, a share in [0, 1]."""

    model: str
    metric: str
    relation: str
    bound: float


class Checked(NamedTuple):
    """Whether a condition is met, and the line that says so with what was measured."""

    met: bool
    line: str


def read_conditions(text: str | None, config: RunConfig) -> list[Condition]:
    """The conditions of `--require`, separated by commas; none for None.

    Raises ConfigError for one that cannot be read, for a metric or model that the evaluation will not have, and
    where the config evaluates nothing.
    """
    if text is None:
        return []
    if config.evaluate is None:
        raise ConfigError(
            f"--require {text!r}: the config has no 'evaluate' section, so nothing is measured; add one"
        )
    return [_condition(part.strip(), config) for part in text.split(",")]


def check(conditions: Sequence[Condition], evaluation: Mapping[str, Any]) -> list[Checked]:
    """Each condition held against what `evaluation.json` holds."""
    return [_checked(condition, evaluation[condition.model]) for condition in conditions]


def lines_of(checked: Sequence[Checked]) -> list[str]:
    """A line for each condition that is not met; where all are, one line for all of them."""
    if unmet := [found.line for found in checked if not found.met]:
        return [f"unmet    {line}" for line in unmet]
    return [f"met      {'; '.join(found.line for found in checked)}"] if checked else []


def _condition(text: str, config: RunConfig) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--require {text!r}: write METRIC or MODEL.METRIC, one of {' '.join(HOLDS)} and a number, as in "
            "harmless>=0.9; commas between conditions"
        )
    models = ("base", *config.policies)
    model, metric, relation, number = found.groups(default=models[-1])
    if model not in models:
        raise ConfigError(
            f"--require {text!r}: the run evaluates no model {model!r}, only {', '.join(models)}"
        )
    if metric not in _TAG_OF_METRIC:
        near = difflib.get_close_matches(metric, _TAG_OF_METRIC, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"--require {text!r}: no metric {metric!r}, only {', '.join(_TAG_OF_METRIC)}{hint}")
    return Condition(model, metric, relation, _bound(number, text))


def _bound(number: str, text: str) -> float:
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not 0 <= bound <= 1:
        raise ConfigError(f"--require {text!r}: {number} is no share; give a number from 0 to 1")
    return bound


def _checked(condition: Condition, measured: Mapping[str, Any]) -> Checked:
    model, metric, relation, bound = condition
    found, unscored = measured[metric], measured["unscored"]
    lost = ", ".join(f"{reason} {count:,}" for reason, count in unscored.items())
    if found["rate"] is None:
        fix = (
            f"unscored: {lost}"
            if lost
            else f"evaluate.sources has no prompts tagged {_TAG_OF_METRIC[metric]}"
        )
        return Checked(False, f"{model} {metric} was not measured, must be {relation} {bound:g} ({fix})")
    n = found["n"]
    line = f"{model} {metric} {found['rate']:.3f} [{found['low']:.3f}, {found['high']:.3f}], "
    line += f"{round(found['rate'] * n):,} of {n:,}, must be {relation} {bound:g}"
    return Checked(
        HOLDS[relation](found["rate"], bound), line + (f" (unscored of all metrics: {lost})" if lost else "")
    )
