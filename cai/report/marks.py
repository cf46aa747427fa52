"""Marks and the figures of an audit, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cai.marks.figures import AuditFigures
from cai.marks.mark import Mark
from cai.report.tables import percent, plain


def print_marks(marks: Sequence[Mark], damaged: int, console: Console) -> None:
    """A line a mark, in the order in which they were made."""
    table = Table(title=f"{len(marks):,} marks", title_justify="left")
    for column in ("row", "mark", "better", "judge", "author", "when (UTC)", "note"):
        table.add_column(column, no_wrap=column not in ("row", "note"), overflow="fold")
    for mark in marks:
        better = mark.gold or "–"
        cells = (mark.row, mark.mark, better, mark.label or "–", mark.author, mark.at[:16].replace("T", " "))
        table.add_row(*map(plain, cells), plain(mark.note))
    console.print(table)
    if damaged:
        console.print(f"{damaged:,} damaged lines are passed over", style="yellow")


def print_figures(found: AuditFigures, console: Console) -> None:
    """How far an audit is, and what it says so far."""
    for line in progress_lines(found):
        console.print(plain(line), soft_wrap=True, highlight=False)
    if not found.marked:
        return
    table = Table(title="judge right, % [95 % interval, exact]", title_justify="left")
    table.add_column("about", overflow="fold")
    for column in ("right", "rows", "of which ties"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [("labels", found.labels), *((("opinions", found.opinions),) if found.opinions else ())]
    rows += [(f"under {one.principle}", one.accuracy) for one in found.principles]
    for name, one in rows:
        table.add_row(plain(name), percent(one.model_dump()), f"{one.n:,}", f"{one.ties:,}")
    console.print(table)


def progress_lines(found: AuditFigures) -> list[str]:
    """In words: how far it is, what is left out, and whether the planned margin is kept."""
    lines = [
        f"{found.marked:,} of {found.size:,} planned rows marked, drawn from {found.rows:,} {found.of} rows"
    ]
    left_out = (
        (found.unusable, "marked as unusable"),
        (found.disputed, "on which the authors disagree"),
        (found.ahead, "marked ahead of rows that are not, which count once these are"),
        (found.stale, "whose texts have changed since, to be marked again"),
    )
    lines += [f"not counted: {count:,} {why}" for count, why in left_out if count]
    if found.marked and not found.reached:
        lines.append(
            f"not yet known to ±{100 * found.margin:g} points; go on marking, the interval is of what is"
        )
    return lines
