"""Juries and cascades on labelled pairs: what several judges' verdicts add up to, measured out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cai.judge.cases import Case, Order, Outcome, folds, orders_of, outcome
from cai.judge.curve import RAW, Curve, Method
from cai.judge.fit import FOLDS, METHOD, Settings, fit_curve, fit_rule
from cai.judge.label import JudgeRule, Label, pool

Members = Sequence[Sequence[Case]]  # for each judge, its cases; aligned, with the same ids in the same order


class Tier(NamedTuple):
    """One judge of a cascade: how many pairs it was asked and labelled, out of fold; the rule made from all pairs."""

    asked: int
    labelled: int
    rule: JudgeRule


class Cascade(NamedTuple):
    """For each pair the case of the last judge that was asked, and what became of it out of fold."""

    cases: list[Case]
    outcomes: list[Outcome]
    tiers: list[Tier]


def align(members: Sequence[Sequence[Case]]) -> list[list[Case]]:
    """The same ids in the same order for every judge; a pair that a judge does not have is one it cannot read."""
    known: dict[str, Case] = {}
    for cases in members:
        for case in cases:
            known.setdefault(case.id, case)
    found = []
    for cases in members:
        own = {case.id: case for case in cases}
        found.append([own.get(name) or case._replace(ab=None, ba=None) for name, case in known.items()])
    return found


def jury_cases(members: Members, method: Method = METHOD) -> list[Case]:
    """The jury's verdict on each pair as a case of one order, pooled with curves that did not see its label."""
    first = members[0]
    count = min(FOLDS, len(first))
    fold = folds(first, count)
    pooled: list[Case] = list(first)
    orders = [orders_of(cases) for cases in members]
    for held in range(count):
        curves = [
            fit_curve(method, [case for case, f in zip(cases, fold, strict=True) if f != held])
            for cases in members
        ]
        for index in (i for i, f in enumerate(fold) if f == held):
            answers = [cases[index] for cases in members]
            pooled[index] = _pooled(answers, curves, orders)
    return pooled


def _pooled(answers: Sequence[Case], curves: Sequence[Curve], orders: Sequence[tuple[Order, ...]]) -> Case:
    labels = []
    for case, curve, asked in zip(answers, curves, orders, strict=True):
        p = outcome(case, JudgeRule(0.5, curve), asked).p
        labels.append(Label(p, "unparsed" if p is None else "labelled", p))
    return answers[0]._replace(ab=pool(labels, JudgeRule()).p, ba=None)


def run_cascade(members: Members, settings: Settings) -> Cascade:
    """Ask the judges in turn, each what the one before did not label, with rules that did not see the pair.

    A promise's risk is shared out among the tiers, and each threshold is chosen on the pairs that reach it, so
    that together they keep it.
    """
    first = members[0]
    count = min(FOLDS, len(first))
    fold = folds(first, count)
    cases, outcomes = list(first), [Outcome(None, kept=False)] * len(first)
    asked, labelled = [0] * len(members), [0] * len(members)
    orders = [orders_of(own) for own in members]
    for held in range(count):
        rules = cascade_rules(
            [[c for c, f in zip(m, fold, strict=True) if f != held] for m in members], settings
        )
        for index in (i for i, f in enumerate(fold) if f == held):
            for tier, (own, rule) in enumerate(zip(members, rules, strict=True)):
                asked[tier] += 1
                cases[index] = own[index]
                outcomes[index] = outcome(own[index], rule, orders[tier])
                if outcomes[index].kept:
                    labelled[tier] += 1
                    break
    tiers = zip(asked, labelled, cascade_rules(members, settings), strict=True)
    return Cascade(cases, outcomes, [Tier(*tier) for tier in tiers])


def cascade_rules(members: Members, settings: Settings) -> list[JudgeRule]:
    """The rule of each tier: curves from all pairs, thresholds from those that reach the tier."""
    share = settings._replace(risk=settings.risk / len(members))
    left = list(range(len(members[0])))
    rules = []
    for own in members:
        curve = fit_curve(settings.method, own) if settings.method else RAW
        rule = fit_rule([own[i] for i in left], share, curve)
        rules.append(rule)
        orders = orders_of(own)
        left = [i for i in left if not outcome(own[i], rule, orders).kept]
    return rules
