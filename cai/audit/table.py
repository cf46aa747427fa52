"""What an audit says in the terminal: one table of checks, the worst first, and a few rows of each. All text is made
plain first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from cai.audit.findings import Check
from cai.report.tables import plain


def print_audit(
    title: str, lines: Sequence[str], checks: Mapping[str, Check], examples: int, console: Console
) -> None:
    """The checks as a table, then `lines` of what else was measured, then up to `examples` rows a check."""
    table = Table(title=plain(title), title_justify="left")
    for column in ("check", "found", "of", "% [95 % interval]", "what"):
        table.add_column(column, justify="left" if column in ("check", "what") else "right")
    for name, check in checks.items():
        table.add_row(
            name,
            "–" if check.count is None else f"{check.count:,}",
            f"{check.n:,}",
            _share(check),
            plain(check.what),
        )
    console.print(table)
    notes = [f"{name}: {check.note}" for name, check in checks.items() if check.note]
    for line in (*lines, *notes):
        console.print(plain(line), soft_wrap=True, highlight=False)
    for name, check in checks.items():
        if check.listed and examples:
            more = f", {examples} of {check.count:,}" if (check.count or 0) > examples else ""
            console.print(f"\n{name}{more}", highlight=False)
            for finding in check.listed[:examples]:
                console.print(
                    f"  {plain(finding.id)}  {plain(finding.detail)}", soft_wrap=True, highlight=False
                )


def _share(check: Check) -> str:
    if check.share is None:
        return "–"
    if check.low is None or check.high is None:
        return f"{100 * check.share:.2f}"
    return f"{100 * check.share:.2f} [{100 * check.low:.1f}, {100 * check.high:.1f}]"
