"""`cai journal`: the replies that a run has paid for, on disk."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cai.cli.common import Json, Run, print_json

app = typer.Typer(no_args_is_help=True, help="The replies that a run has paid for.")


@app.callback()
def root() -> None:
    """The replies that a run has paid for, on disk."""


@app.command()
def compact(
    run: Run,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
    as_json: Json = False,
) -> None:
    """Drop damaged and doubled lines, and replies to requests that the run's present stages do not make.

    Running the config again asks nothing for it; going back to an earlier version of it asks what was dropped.
    """
    from cai.conduct.compact import compact_run
    from cai.config_file import validate_config
    from cai.report.status import run_status

    config = validate_config(run_status(run)["config"], str(run / "config.json"))
    config = config.model_copy(update={"outputs": str(run.parent), "name": run.name})
    found = asyncio.run(compact_run(config, dry_run))
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    for one in found:
        kept = "unfinished, all replies kept" if one.whole else f"{one.dropped:,} replies dropped"
        typer.echo(
            f"{one.stage} {one.shard:05d}  {one.before:,} → {one.after:,} bytes; {kept}, {one.kept:,} held"
            + (f"; {one.damaged:,} damaged lines dropped" if one.damaged else "")
        )
    before, after = sum(one.before for one in found), sum(one.after for one in found)
    typer.echo(f"in all  {before:,} → {after:,} bytes{' (nothing was written)' if dry_run else ''}")
