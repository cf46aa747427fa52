"""`cai doctor`: what this machine and the accounts lack for a run, each line with its fix."""

from __future__ import annotations

from typing import Annotated

import typer

from cai.cli.common import Json, Set, print_json
from cai.cli.completion import complete_config
from cai.errors import ConfigError

Config = Annotated[
    str | None,
    typer.Argument(
        metavar="CONFIG",
        help="Run config (YAML); without it, what any run could need.",
        autocompletion=complete_config,
    ),
]
MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}


def doctor(config: Config = None, overrides: Set = None, as_json: Json = False) -> None:
    """Look at Python, packages, GPU, keys, endpoints and disk; exit status 1 where the config needs what is missing.

    Asks endpoints only what is free, starts nothing, and shows no key.
    """
    if overrides and config is None:
        raise ConfigError("--set changes a config; name the config as well")
    from cai.config_file import load_config
    from cai.doctor import examine

    found = examine(load_config(config, overrides or []) if config else None)
    missing = sum(finding.state == "missing" for finding in found)
    if as_json:
        print_json({"findings": [finding.model_dump() for finding in found], "missing": missing})
    else:
        from rich.console import Console
        from rich.table import Table

        from cai.report.tables import plain

        table = Table()
        for column in ("", "what", "found", "fix"):
            table.add_column(column, overflow="fold")
        for finding in found:
            table.add_row(MARKS[finding.state], *map(plain, (finding.what, finding.found, finding.fix)))
        console = Console()
        console.print(table)
        subject = config or "a run"
        console.print(
            plain(f"{missing} missing for {subject}" if missing else f"nothing is missing for {subject}")
        )
    if missing:
        raise typer.Exit(1)
