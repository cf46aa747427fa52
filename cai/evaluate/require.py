"""What a run's models must reach: `harmless>=0.9,overrefusal<=0.05`, read before anything is asked and checked after.

A condition is on the rate of one metric of one model: the one named before a dot, or else the last policy that the
run trains, which is what it would ship. `dpo-vs-sft.win_rate>=0.5` and `dpo-vs-sft.equal_length>=0.5` are on two
models that the evaluation compares; without the pair, on the one that this last policy is the first of. The rate
itself must hold, not a bound of its interval. A rate of no replies holds nothing.
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
from cai.evaluate.compare import pair_name
from cai.evaluate.grade import METRIC_OF_TAG

HOLDS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_CONDITION = re.compile(r"(?:([\w-]+)\.)?(\w+)\s*(>=|<=|>|<)\s*([\d.]+)", re.ASCII)
_OF_PAIRS = ("win_rate", "equal_length")
_TAG_OF_METRIC: dict[str, str] = {metric: tag for tag, metric in METRIC_OF_TAG.items()}


class Condition(NamedTuple):
    """The rate of `metric` of `model`, or of a pair of models, must stand in `relation` to `bound`, in [0, 1]."""

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
    return [
        _compared(condition, evaluation["side_by_side"][condition.model])
        if condition.metric in _OF_PAIRS
        else _checked(condition, evaluation[condition.model])
        for condition in conditions
    ]


def lines_of(checked: Sequence[Checked]) -> list[str]:
    """A line for each condition that is not met; where all are, one line for all of them."""
    if unmet := [found.line for found in checked if not found.met]:
        return [f"unmet    {line}" for line in unmet]
    return [f"met      {'; '.join(found.line for found in checked)}"] if checked else []


def parts_of(option: str, text: str, form: str, known: Sequence[str], kind: str) -> tuple[str | None, ...]:
    """A condition as what stands before its dot (or None), the name, the relation and the number, as text.

    `option`: where it was given. `form`: how to write one. `known`: names that there are, each a `kind`.
    Raises ConfigError.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConfigError(f"{option} {text!r}: write {form}; commas between conditions")
    if (name := found[2]) not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{option} {text!r}: no {kind} {name!r}, only {', '.join(known)}{hint}")
    return found.groups()


def bound_of(option: str, number: str | None, text: str) -> float:
    """The number of a condition, a share. Raises ConfigError."""
    try:
        bound = float(number or "")
    except ValueError:
        bound = math.nan
    if not 0 <= bound <= 1:
        raise ConfigError(f"{option} {text!r}: {number} is no share; give a number from 0 to 1")
    return bound


def _condition(text: str, config: RunConfig) -> Condition:
    form = f"METRIC or MODEL.METRIC, one of {' '.join(HOLDS)} and a number, as in harmless>=0.9"
    subject, metric, relation, number = parts_of(
        "--require", text, form, (*_TAG_OF_METRIC, *_OF_PAIRS), "metric"
    )
    assert metric is not None and relation is not None
    named = _pair if metric in _OF_PAIRS else _model
    return Condition(named(subject, config, text), metric, relation, bound_of("--require", number, text))


def _model(name: str | None, config: RunConfig, text: str) -> str:
    """The model that a condition is on; None: the last policy."""
    models = ("base", *config.policies)
    if name is not None and name not in models:
        raise ConfigError(
            f"--require {text!r}: the run evaluates no model {name!r}, only {', '.join(models)}"
        )
    return name or models[-1]


def _pair(name: str | None, config: RunConfig, text: str) -> str:
    """The pair of models that a condition is on; None: the only one that begins with the last policy."""
    pairs = {pair_name(models): models[0] for models in config.compared}
    if not pairs:
        raise ConfigError(f"--require {text!r}: the config compares no models; add evaluate.side_by_side")
    own = [pair for pair, first in pairs.items() if first == config.policies[-1]] if name is None else [name]
    if len(own) != 1 or own[0] not in pairs:
        which = "say which pair is meant" if name is None else f"the run compares no pair {name!r}"
        raise ConfigError(f"--require {text!r}: {which}, of {', '.join(pairs)}")
    return own[0]


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


def _compared(condition: Condition, measured: Mapping[str, Any]) -> Checked:
    pair, metric, relation, bound = condition
    found, won = measured[metric], measured["win_rate"]
    lost = ", ".join(f"{reason} {count:,}" for reason, count in measured["unscored"].items())
    if found["rate"] is None:
        why = found.get("why_not") if won["n"] else f"unscored: {lost}"
        return Checked(False, f"{pair} {metric} was not measured, must be {relation} {bound:g} ({why})")
    line = f"{pair} {metric} {found['rate']:.3f} [{found['low']:.3f}, {found['high']:.3f}], "
    line += f"{won['wins']:,} won, {won['ties']:,} tied, {won['losses']:,} lost, must be {relation} {bound:g}"
    return Checked(HOLDS[relation](found["rate"], bound), line + (f" (unscored: {lost})" if lost else ""))
