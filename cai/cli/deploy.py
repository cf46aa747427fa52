"""`cai deploy`: a config becomes a deployment, scheduled or started by hand, here or through a work pool."""

from __future__ import annotations

from typing import Annotated

import typer

from cai.cli.common import Config, Json, Set, run_flow

FLOWS = ("generate", "revise", "judge", "train", "evaluate", "qualify", "pipeline", "nightly")
Flow = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"{', '.join(FLOWS[:-1])} or {FLOWS[-1]}.",
        autocompletion=lambda incomplete: [name for name in FLOWS if name.startswith(incomplete)],
    ),
]
All = Annotated[
    bool, typer.Option("--all", help="Every flow that the config has what it takes for, unscheduled.")
]
Name = Annotated[str | None, typer.Option(help="Name of the deployment; else the run's.")]
Cron = Annotated[str | None, typer.Option(metavar="CRON", help="Start by the clock, e.g. '0 2 * * *'.")]
Interval = Annotated[
    str | None, typer.Option(metavar="TIME", help="Start every so often: 90 (seconds), 15m, 1h, 1d.")
]
Timezone = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Of --cron, e.g. Europe/Berlin; else UTC.")
]
Pool = Annotated[str | None, typer.Option(metavar="NAME", help="Work pool that runs it; else local.")]
Inbox = Annotated[str | None, typer.Option(metavar="FOLDER", help="nightly: where new prompt files come in.")]
PassRate = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="nightly: share of the constitution's tests to pass; else 0.9."),
]
Serve = Annotated[
    bool, typer.Option("--serve", help="Run it from here, until stopped; no server, pool or worker needed.")
]


def deploy(
    config: Config,
    flow: Flow = "pipeline",
    every_flow: All = False,
    name: Name = None,
    cron: Cron = None,
    interval: Interval = None,
    timezone: Timezone = None,
    work_pool: Pool = None,
    inbox: Inbox = None,
    min_pass_rate: PassRate = None,
    overrides: Set = None,
    serve: Serve = False,
    as_json: Json = False,
) -> None:
    """Deploy a config to Prefect: by hand from its UI, or on a schedule; two runs of one deployment never overlap."""
    given = {
        "--name": name,
        "--cron": cron,
        "--interval": interval,
        "--timezone": timezone,
        "--work-pool": work_pool,
        "--inbox": inbox,
        "--min-pass-rate": min_pass_rate,
    }
    options = [f"--flow={flow}"]
    options += [f"{option}={value}" for option, value in given.items() if value is not None]
    options += [f for f, on in (("--all", every_flow), ("--serve", serve), ("--json", as_json)) if on]
    run_flow("deploy", config, overrides, options)
