"""The tests of a constitution in the terminal: pass rates by principle, and which tests failed and why."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from cai.judge.passes import Checked
from cai.report.tables import plain
from cai.tryout.check import Checks
from cai.tryout.spent import spent_line

PROMPT_CHARS = 60
REASONS = {
    "wrong": "the worse reply is preferred in both orders",
    "inconsistent": "the reply shown in one place is preferred whichever it is",
    "tie": "no reply is preferred in some order",
    "unread": "no answer could be read in some order",
    "identical": "both replies are the same text",
    "no_principle": "no principle applies to its tags",
}


def print_checks(found: Checks, console: Console) -> None:
    """Everything about one constitution."""
    console.print(_table(found))
    for one in found.principles:
        for test in one.checked:
            if test.failure is not None:
                console.print(_failed(test), soft_wrap=True, highlight=False)
    for line in _notes(found):
        console.print(line, soft_wrap=True, highlight=False)


def _table(found: Checks) -> Table:
    title = f"{plain(found.name)} {plain(found.version)} ({plain(found.file)})"
    table = Table(title=title, title_justify="left", show_footer=found.tests > 0)
    total = ("all", f"{found.tests:,}", f"{found.passed:,}", _percent(found.rate), "")
    for name, footer in zip(("principle", "tests", "passed", "rate %", "mean p"), total, strict=True):
        left = name == "principle"
        table.add_column(name, footer, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for one in found.principles:
        style = "red" if one.principle in found.below else ""
        mean = "–" if one.mean_p is None else f"{one.mean_p:.3f}"
        cells = (f"{one.tests:,}", f"{one.passed:,}", _percent(one.rate), mean)
        table.add_row(plain(one.principle), *cells, style=style)
    return table


def _failed(test: Checked) -> str:
    start = " ".join(test.prompt.split())
    start = start if len(start) <= PROMPT_CHARS else f"{start[:PROMPT_CHARS]}…"
    return f"[red]failed[/] {plain(test.id)}: {plain(failure_of(test))}; “{plain(start)}”"


def failure_of(test: Checked) -> str:
    """Why a test failed, in words, with p(better) in both orders."""
    reason = test.failure or "passed"
    read = [("first", test.p_first), ("second", test.p_second)]
    shown = ", ".join(f"{'–' if p is None else f'{p:.3f}'} shown {place}" for place, p in read)
    return f"{reason} ({REASONS.get(reason, 'lost to the endpoint')}); p(better) {shown}"


def _notes(found: Checks) -> Iterator[str]:
    if found.untested:
        yield f"without tests: {plain(', '.join(found.untested))}"
    if found.skipped:
        yield f"skipped: {found.skipped:,} pairs whose gold is a tie or unknown"
    least = f"{_percent(found.min_pass_rate)} % of each principle's tests must pass"
    if found.tests == 0:
        yield "[yellow]nothing to test[/]"
    elif found.held:
        yield f"[bold green]passed[/] ({least})"
    else:
        yield f"[bold red]failed[/]: {plain(', '.join(found.below))} ({least})"
    yield spent_line(found.calls, found.seconds)


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.1f}".removesuffix(".0")
