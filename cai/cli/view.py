"""`cai view`: a run in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.common import Run


def view(
    run: Run,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER",
            help="Compare with this run; default: the run before the last edit of its constitution.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback are reached from outside.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8642,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in the browser.")] = True,
) -> None:
    """Look at a run in the browser: its tables, the whole story of a row, and what changed since another run."""
    from cai.view.serve import serve

    serve(run, against, host, port, browser)
