"""The tables of `cai judge`: what a judge is worth on labelled pairs, and why it may or may not label."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cai.judge.diagrams import Interval
from cai.judge.figures import Figures
from cai.judge.summary import Summary
from cai.report.tables import plain

RATES = {
    "accuracy": "accuracy",
    "accuracy_a_first": "accuracy, a shown first",
    "agreement": "agreement of the two orders",
    "accuracy_when_agreed": "accuracy where they agree",
    "first_position_rate": "verdicts won by the first shown",
    "longer_rate": "takes the longer reply",
    "gold_longer_rate": "gold takes the longer reply",
    "longer_wins_accuracy": "accuracy of 'longer wins'",
}
ERRORS = {
    "ece": "ECE",
    "ece_calibrated": "ECE, calibrated, out of fold",
    "brier": "Brier",
    "brier_calibrated": "Brier, calibrated, out of fold",
}


def print_summary(found: Summary, console: Console) -> None:
    """Figures, what the threshold keeps, the risk–coverage curve, and the decision."""
    columns: list[tuple[str, Figures]] = [(found.judge, found)]
    if found.members:
        columns = [*found.members.items(), (found.kind, found)]
    console.print(_figures(columns, found))
    console.print(_curve(found))
    for tier in found.tiers:
        share = f"{tier.labelled:,} of {tier.asked:,} pairs"
        cut = (
            f"from {tier.threshold:.3f} on"
            if tier.threshold
            else "no threshold keeps the promise on what is left"
        )
        console.print(f"{plain(tier.judge)}: labelled {share}, {cut}", soft_wrap=True)
    if found.saved_share is not None:
        console.print(f"the last judge was spared {found.saved_share:.1%} of the pairs")
    console.print(_promise(found), soft_wrap=True)
    print_decision(found, console)


def print_decision(found: Figures, console: Console) -> None:
    """Qualified or refused, with the reasons."""
    console.print("[bold]qualified[/]" if found.qualified else "[bold red]refused[/]")
    for reason in found.reasons:
        console.print(f"  {plain(reason)}", soft_wrap=True)


def _figures(columns: Sequence[tuple[str, Figures]], found: Summary) -> Table:
    table = Table("", title=f"{found.scored:,} of {found.rows:,} pairs scored", title_justify="left")
    for name, _ in columns:
        table.add_column(plain(name), justify="right", overflow="fold")
    for field, title in RATES.items():
        cells = [_percent(getattr(one, field)) for _, one in columns]
        if field == "accuracy":
            cells = [c + _interval(one.accuracy_interval) for c, (_, one) in zip(cells, columns, strict=True)]
        table.add_row(title, *cells)
    for field, title in ERRORS.items():
        table.add_row(title, *(_number(getattr(one, field)) for _, one in columns))
    for reason in sorted({reason for _, one in columns for reason in one.unscored_reasons}):
        counts = [f"{one.unscored_reasons.get(reason, 0):,}" for _, one in columns]
        table.add_row(f"unscored: {reason}", *counts)
    return table


def _curve(found: Figures) -> Table:
    table = Table(title="what a threshold on the judge's own confidence keeps", title_justify="left")
    for title in ("from", "pairs", "coverage", "accuracy [95 %]", "longer wins"):
        table.add_column(title, justify="right")
    for point in found.risk_coverage:
        table.add_row(
            f"{point.threshold:.2f}",
            f"{point.n:,}",
            _percent(point.coverage),
            _percent(point.accuracy) + _interval(point.interval),
            _percent(point.longer_rate),
        )
    return table


def _promise(found: Summary) -> str:
    how = f" of {found.calibration}-calibrated confidence" if found.calibration not in (None, "raw") else ""
    if found.threshold is None and not any(tier.threshold for tier in found.tiers):
        return (
            f"no threshold keeps an accuracy of {_number(found.target_accuracy)} at risk {_number(found.risk)} "
            "on these pairs: nothing is kept"
        )
    start = "together" if found.tiers else f"threshold {_number(found.threshold)}{how}"
    line = (
        f"{start}: keeps {_percent(found.coverage)} of the pairs, "
        f"{_percent(found.accuracy_at_threshold)}{_interval(found.accuracy_at_threshold_interval)} right, out of fold"
    )
    if found.target_accuracy is not None:
        line += f" (promised {_percent(found.target_accuracy)}, with a risk of {_number(found.risk)})"
    return line


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _interval(bounds: Interval | None) -> str:
    return "" if bounds is None else rf" \[{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
