"""The calibration of a run's judge: made on labelled pairs, kept in a file, valid for that very judge only.

A judge's identity is its model and everything that shapes its answers: wording, method, sampling. It is one
string, `model@digest`; a run whose judge has another refuses the file before its first call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import FiniteFloat

from cai.config import JudgeConfig
from cai.constitution.principle import content_digest
from cai.errors import ConfigError
from cai.given import read_given
from cai.judge.cases import Case, hit, offset, orders_of, outcome
from cai.judge.combine import align, jury_cases
from cai.judge.curve import RAW, Curve, Method, cut_at
from cai.judge.fit import MIN_FIT, Settings, fit_curve
from cai.judge.label import JudgeRule
from cai.judge.promise import smallest_threshold
from cai.judge.summary import Kind, Summary
from cai.rows import Row
from cai.store import decode, explain, write_json

WORDING = ("turn", "compare", "reason", "answer", "stated")
Confidence = tuple[
    FiniteFloat, bool
]  # uncalibrated, 0 where the pair can be no label; and whether the label is right


class Member(Row):
    """One judge: who it is, and its curve."""

    judge: str
    curve: Curve


class Calibration(Row):
    """What a calibration file holds.

    `principles`: how many were asked of each pair; None for recorded verdicts. `pool`: a jury's curve over its
    pooled log-odds. `rows`: for each labelled pair the confidence of every judge (of the pool, for a jury), from
    which a run chooses its threshold. `figures`: what was measured, out of fold.
    """

    version: Literal[1] = 1
    kind: Kind
    method: Method
    principles: int | None
    members: tuple[Member, ...]
    pool: Curve | None
    rows: tuple[tuple[Confidence, ...], ...]
    figures: Summary


def judge_identity(model: str, judge: JudgeConfig, templates: Mapping[str, str]) -> str:
    """`model@digest` for a judge whose model has the identity `model`."""
    wording = {name: templates[name] for name in WORDING if name in templates}
    sampling = judge.sampling.model_dump(mode="json")
    samples = judge.samples if judge.method == "samples" else None
    return f"{model}@{content_digest(wording, judge.method, samples, judge.reasoning, sampling)[:12]}"


def calibrate(
    members: Sequence[tuple[str, Sequence[Case]]], method: Method, principles: int | None, found: Summary
) -> Calibration:
    """Fit on all labelled pairs. Raises ConfigError where too few are scored."""
    if found.scored < MIN_FIT:
        raise ConfigError(
            f"calibration: only {found.scored} of {found.rows} pairs could be scored; label at least {MIN_FIT}"
        )
    cases = align([own for _, own in members])
    curves = [fit_curve(method, own) for own in cases]
    pool, columns = None, [_confidences(own, curve) for own, curve in zip(cases, curves, strict=True)]
    if found.kind == "jury":
        pooled = jury_cases(cases, method)
        pool = fit_curve(method, pooled)
        columns = [_confidences(pooled, RAW)]
    golds = [index for index, case in enumerate(cases[0]) if case.gold is not None]
    return Calibration(
        kind=found.kind,
        method=method,
        principles=principles,
        members=tuple(Member(judge=name, curve=c) for (name, _), c in zip(members, curves, strict=True)),
        pool=pool,
        rows=tuple(tuple(column[index] for column in columns) for index in golds),
        figures=found,
    )


def _confidences(cases: Sequence[Case], curve: Curve) -> list[Confidence]:
    rule, orders = JudgeRule(0.5, Curve(position_bias=curve.position_bias)), orders_of(cases)
    found: list[Confidence] = []
    for case in cases:
        made = outcome(case, rule, orders)
        if made.kept and made.p is not None and offset(case) is not None:
            found.append((max(made.p, 1 - made.p), hit(made.p, case.gold) == 1))
        else:
            found.append((0.0, False))
    return found


def rules(calibration: Calibration, judge: JudgeConfig) -> list[JudgeRule]:
    """The rule of every judge (of the pool alone, for a jury), with the threshold that the config asks for.

    Raises ConfigError where `target_accuracy` is asked for and no threshold keeps it: such a judge would be asked
    for nothing, and so would a tier of a cascade that could keep none of what reaches it.
    """
    settings = Settings(calibration.method, judge.threshold, judge.target_accuracy, judge.risk)
    found = thresholds(calibration, settings)
    useless = [m.judge for m, rule in zip(calibration.members, found, strict=False) if rule.threshold is None]
    if useless:
        who = f" by {useless[0]}, asked for what is left to it," if len(found) > 1 else ""
        fix = "leave it out of the cascade, " if len(found) > 1 else ""
        raise ConfigError(
            f"judge.target_accuracy: {judge.target_accuracy:g} cannot be promised{who} at risk {judge.risk:g} on the "
            f"{len(calibration.rows)} pairs of {judge.calibration}, so no label would be kept; {fix}lower the "
            "target, label more pairs, or take a better judge"
        )
    return found


def thresholds(calibration: Calibration, settings: Settings) -> list[JudgeRule]:
    """The rules of `rules`, chosen on the stored rows; a threshold of None where none keeps the promise."""
    curves = (
        [calibration.pool or RAW] if calibration.kind == "jury" else [m.curve for m in calibration.members]
    )
    if settings.target is None:
        return [JudgeRule(settings.threshold, curve) for curve in curves]
    left, found = list(calibration.rows), []
    for column, curve in enumerate(curves):
        confidences = [row[column] for row in left]
        cut = smallest_threshold(confidences, settings.target, settings.risk / len(curves))
        found.append(JudgeRule(None if cut is None else cut_at(curve, cut), curve))
        if cut is not None:
            left = [row for row in left if row[column][0] < cut]
    return found


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Publish the file. Raises StoreError."""
    write_json(path, calibration)


def read_calibration(path: Path) -> Calibration:
    """Read a file. Raises ConfigError where it is missing or no calibration of this version."""
    try:
        return decode(read_given(path), Calibration)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; make a calibration with `cai judge calibrate`"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a calibration ({explain(error)}); make it again") from error


def check_calibration(
    path: Path, calibration: Calibration, kind: Kind, judges: Sequence[str], principles: int | None
) -> None:
    """Raises ConfigError where the file was made for another judge, or for another way of asking it."""
    made = [member.judge for member in calibration.members]
    if calibration.kind != kind or made != list(judges):
        raise ConfigError(
            f"{path}: made for the {calibration.kind} judge {made}, not for the {kind} judge {list(judges)} "
            "(after the @: wording, method and sampling); calibrate this one"
        )
    if calibration.principles is not None and principles is not None and calibration.principles != principles:
        raise ConfigError(
            f"{path}: calibrated with {calibration.principles} principle(s) a pair, judge.principles is "
            f"{principles}; set judge.principles to {calibration.principles}, or calibrate on pairs that "
            "name no principle"
        )
