"""One judge, a jury or a cascade on labelled pairs: the figures of the whole and of every member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from cai.intervals import rate
from cai.judge.cases import Case, hit, offset
from cai.judge.combine import Cascade, align, jury_cases, run_cascade
from cai.judge.diagrams import interval
from cai.judge.figures import Figures, figures
from cai.judge.fit import METHOD, Settings
from cai.judge.label import JudgeRule
from cai.rows import Row

Kind = Literal["single", "jury", "cascade"]


class TierFigures(Row):
    """One judge of a cascade, out of fold: pairs that reached it, pairs that it labelled, and its threshold."""

    judge: str
    asked: int
    labelled: int
    threshold: float | None


class Summary(Figures):
    """The figures of what labels: the judge itself, the jury's pool, or a cascade's last word on each pair.

    A jury or cascade is qualified where every member is. `saved_share`: of the verdicts that the last judge of a
    cascade would have given alone, the share that it did not have to.
    """

    judge: str
    kind: Kind
    members: dict[str, Figures] = Field(default_factory=dict)
    tiers: tuple[TierFigures, ...] = ()
    saved_share: float | None = None


def summarise(members: Sequence[tuple[str, Sequence[Case]]], kind: Kind, settings: Settings) -> Summary:
    """All figures of `members`, (name, cases) in the order in which they are asked."""
    names = [name for name, _ in members]
    if kind == "single":
        found = figures(members[0][1], settings)
        return Summary(judge=names[0], kind=kind, **_fields(found))
    cases = align([own for _, own in members])
    own = {name: figures(one, settings) for name, one in zip(names, cases, strict=True)}
    qualified = {
        "qualified": all(found.qualified for found in own.values()),
        "reasons": tuple(f"{name}: {reason}" for name, found in own.items() for reason in found.reasons),
    }
    if kind == "jury":
        pooled = figures(jury_cases(cases, settings.method or METHOD), settings)
        return Summary(judge=" + ".join(names), kind=kind, members=own, **_fields(pooled) | qualified)
    done = run_cascade(cases, settings)
    last = _fields(figures(done.cases, settings)) | _kept(done) | qualified
    tiers = tuple(
        TierFigures(judge=name, asked=tier.asked, labelled=tier.labelled, threshold=tier.rule.threshold)
        for name, tier in zip(names, done.tiers, strict=True)
    )
    saved = 1 - tiers[-1].asked / len(done.cases)
    return Summary(judge=" > ".join(names), kind=kind, members=own, tiers=tiers, saved_share=saved, **last)


def apply_rule(name: str, cases: Sequence[Case], rule: JudgeRule, settings: Settings) -> Summary:
    """The figures of a judge under a rule that was made elsewhere, on pairs that it never saw."""
    return Summary(judge=name, kind="single", **_fields(figures(cases, settings, rule)))


def _kept(done: Cascade) -> dict[str, Any]:
    """Coverage and accuracy of the labels that the tiers gave together."""
    pairs = zip(done.outcomes, done.cases, strict=True)
    golds = [(o, c) for o, c in pairs if c.gold is not None and offset(c) is not None]
    right = [hit(o.p, c.gold) for o, c in golds if o.kept and o.p is not None]
    at = rate(sum(right), len(right))
    return {
        "threshold": done.tiers[-1].rule.threshold,
        "coverage": len(right) / len(golds) if golds else None,
        "accuracy_at_threshold": at.rate,
        "accuracy_at_threshold_interval": interval(at.low, at.high),
    }


def _fields(found: Figures) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Figures.model_fields}
