"""What the commands share: their common arguments, and the ways to print JSON, to stop and to start a flow."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec

import typer

from cai.cli.completion import complete_config, complete_run
from cai.errors import StoreError
from cai.printable import escaped, one_line, printable_lines, shortened

P = ParamSpec("P")
UNFIT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)

DEMO = "flows/configs/embedded.yaml"  # in a checkout: the config of the demo, on the embedded model

Config = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="Run config (YAML).", autocompletion=complete_config),
]
Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Folder of a run, e.g. outputs/demo.", autocompletion=complete_run),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value, e.g. judge.threshold=0.8."),
]
NoPrefect = Annotated[
    bool, typer.Option("--no-prefect", help="Run in this process alone, without flow runs and artifacts.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


def start(
    name: str,
    config: str,
    overrides: Sequence[str] | None,
    no_prefect: bool,
    require: str | None = None,
) -> NoReturn:
    """Run `pipeline`, `train` or `evaluate` to its end, as a Prefect flow or in this process."""
    if not no_prefect:
        run_flow(name, config, overrides, [] if require is None else [f"--require={require}"])
    from cai.conduct.main import run_here

    sys.exit(run_here(name, config, overrides or [], require))


def run_flow(
    name: str, config: str, overrides: Sequence[str] | None, options: Sequence[str] = ()
) -> NoReturn:
    """Become the flow's program: the same terminal, signals and exit status, and nothing left to wait for."""
    arguments = [sys.executable, "-m", "flows", name, config, *options]
    for override in overrides or []:
        arguments += ["--set", override]
    os.execv(sys.executable, arguments)


def tell(text: str, err: bool = False) -> None:
    """Text for people, on stdout or stderr; whatever it quotes, it cannot steer a terminal."""
    typer.echo(printable_lines(text), err=err)


def print_json(value: object) -> None:
    """One JSON value on stdout; what could steer a terminal is escaped, and lone surrogates are replaced."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
    typer.echo(escaped(text))


def of_a_run(command: Callable[P, None]) -> Callable[P, None]:
    """A command that reads a run's folder, which anyone may have made: what does not fit together is one line.

    Files that are damaged are told by whatever reads them. This is for those that hold something else than a run of
    this version leaves, of which there are too many kinds to ask for each.
    """

    @functools.wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            command(*arguments, **options)
        except Exception as error:
            if not isinstance(error, UNFIT) and not type(error).__module__.startswith("jinja2"):
                raise
            folder = next((value for value in options.values() if isinstance(value, Path)), "the run")
            raise StoreError(
                f"{folder}: holds something else than a run of this version leaves "
                f"({type(error).__name__}: {shortened(str(error), 200)}); run its config again"
            ) from error

    return run


def raise_user(message: str) -> NoReturn:
    """Stop with exit status 2 and one line."""
    typer.echo(f"error: {one_line(message)}", err=True)
    raise typer.Exit(2)
