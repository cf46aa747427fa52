"""A constitution as `constitution show` prints it: every principle with its place, and what it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from cai.constitution import constitution_of
from cai.constitution.extends import Defined, Resolved
from cai.report.tables import plain


def resolved_json(found: Resolved) -> dict[str, Any]:
    """The constitution with `origin` and `replaces` (the nearest first) of each principle.

    Raises ConstitutionError where it holds an error.
    """
    plain_form = constitution_of(found).model_dump(mode="json")
    for principle, defined in zip(plain_form["principles"], found.principles, strict=True):
        principle["origin"] = _place(defined)
        principle["replaces"] = [_place(earlier) for earlier in _replaced(defined)]
    return plain_form


def principles_table(found: Resolved) -> Table:
    """Facts on the left, the statement on the right, so that long ones keep their width in any terminal.

    Raises ConstitutionError where the constitution holds an error.
    """
    file = found.file
    table = Table(title=plain(f"{file.name} {file.version}"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("principle", overflow="fold", ratio=2)
    table.add_column("statement", overflow="fold", ratio=3)
    for defined in found.principles:
        p = defined.principle
        facts = [
            f"[bold]{plain(p.id)}[/bold]",
            f"use {', '.join(sorted(p.use))}",
            f"weight {p.weight:g}, priority {p.priority}",
        ]
        facts += [plain(f"for {', '.join(p.applies_to)}")] if p.applies_to else []
        facts += [f"[dim]{_told(defined)}[/dim]"]
        facts += [f"[dim]replaces {_told(earlier)}[/dim]" for earlier in _replaced(defined)]
        table.add_row("\n".join(facts), plain(p.statement) + "\n")
    return table


def _told(defined: Defined) -> str:
    return plain(f"{defined.document.path}:{defined.line}")


def _place(defined: Defined) -> dict[str, Any]:
    return {"file": str(defined.document.path), "line": defined.line}


def _replaced(defined: Defined) -> Iterator[Defined]:
    """What a principle stands in place of, the nearest first."""
    earlier = defined.replaces
    while earlier is not None:
        yield earlier
        earlier = earlier.replaces
