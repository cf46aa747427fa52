"""The command line. Heavy libraries load only in the command that needs them, so `cai --help` is instant.

`cai run` hands over to the Prefect flow as a program of its own (`python -m flows`): `cai` does not import flows.
With `--no-prefect` it goes through the same sequence itself.
Exit status: 0 done, 1 the work failed or a check did not hold, 2 the user's input is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cai import __version__
from cai.cli.audit import app as audit_app
from cai.cli.benchmark import benchmark
from cai.cli.common import (
    DEMO,
    Config,
    Json,
    NoPrefect,
    Run,
    Set,
    of_a_run,
    print_json,
    raise_user,
    run_flow,
    start,
    tell,
)
from cai.cli.constitution import app as constitution_app
from cai.cli.deploy import deploy
from cai.cli.doctor import doctor
from cai.cli.export import export
from cai.cli.init import init
from cai.cli.journal import app as journal_app
from cai.cli.judge import app as judge_app
from cai.cli.marks import app as marks_app
from cai.cli.plan import diff, plan
from cai.cli.push import push
from cai.cli.train import train
from cai.cli.view import view
from cai.errors import CaiError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(audit_app, name="audit")
app.add_typer(constitution_app, name="constitution")
app.add_typer(journal_app, name="journal")
app.add_typer(judge_app, name="judge")
app.add_typer(marks_app, name="marks")
app.command()(init)
app.command()(doctor)
app.command()(plan)
app.command()(train)
app.command(context_settings={"allow_extra_args": True})(benchmark)
app.command()(deploy)
app.command()(export)
app.command()(push)
app.command()(view)
constitution_app.command()(diff)


def _version(show: bool) -> None:
    if show:
        tell(f"cai {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Constitutional AI / RLAIF: prompts and a YAML constitution in, preference data and aligned models out."""


@app.command()
def demo(overrides: Set = None) -> None:
    """Run the whole pipeline for real on the embedded tiny model (CPU is enough)."""
    if not Path(DEMO).is_file():
        raise_user(f"{DEMO} is not here; run `cai demo` in a checkout of the repository")
    run_flow("pipeline", DEMO, overrides)


@app.command()
def run(config: Config, overrides: Set = None, no_prefect: NoPrefect = False) -> None:
    """Run a config from prompts to evaluated models; what is done already is not done again."""
    start("pipeline", config, overrides, no_prefect)


@app.command("eval")
def evaluate(
    config: Config,
    overrides: Set = None,
    no_prefect: NoPrefect = False,
    require: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITIONS",
            help='Exit 1 unless all hold of the last trained model, or of one named: "harmless>=0.9,sft.helpful>0.8".',
        ),
    ] = None,
) -> None:
    """Evaluate the base and the trained models of a run on held-out prompts."""
    start("evaluate", config, overrides, no_prefect, require)


@app.command()
@of_a_run
def status(
    run: Run,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow a run that is going until it ends.")] = False,
) -> None:
    """What a run has done so far and what it is at: rows, drops by reason, calls, tokens, cost, evaluation."""
    from cai.report.status import run_status

    found = run_status(run)
    if watch:
        if as_json:
            raise_user("--watch shows a run as it goes, --json prints one object; give one of the two")
        from rich.console import Console

        from cai.report.watch import watch as follow

        follow(run, Console())
        found = run_status(run)
    if as_json:
        print_json(found)
        return
    from rich.console import Console

    from cai.report.summary import print_status

    print_status(found, Console())


@app.command()
@of_a_run
def report(run: Run) -> None:
    """Write the report page of a run again."""
    from cai.config_file import validate_config
    from cai.report.page import write_report
    from cai.report.status import run_status

    config = validate_config(run_status(run)["config"], str(run / "config.json"))
    tell(str(write_report(config.model_copy(update={"outputs": str(run.parent), "name": run.name}))))


def main() -> None:
    """Entry point: every CaiError is one line on stderr and an exit status, never a traceback."""
    try:
        app()
    except CaiError as error:
        tell(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        from cai.store import is_refusal, told

        if not is_refusal(error):
            raise
        tell(f"error: {told(error)}", err=True)
        sys.exit(1)
