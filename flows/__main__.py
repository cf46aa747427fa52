"""`python -m flows NAME CONFIG [--set key=value]`: one flow from the command line, as `cai run` starts it.

Works without a Prefect server (Prefect starts a temporary one of its own) and with one (PREFECT_API_URL).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys

os.environ.setdefault(
    "PREFECT_LOGGING_LEVEL", "CRITICAL"
)  # our own progress and errors are what a terminal shows

from rich.console import Console

from cai.config import RunConfig
from cai.config_file import load_config
from cai.errors import CaiError
from cai.preflight import check_inputs
from cai.report.status import run_status
from cai.report.tables import print_status

FLOWS = ("generate", "revise", "judge", "train", "evaluate", "pipeline")


def main() -> int:
    """Run a flow; errors of the user's are one line, an interrupted run says how to go on."""
    parser = argparse.ArgumentParser(prog="cai run")
    parser.add_argument("flow", choices=FLOWS)
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    again = " ".join(["cai run", arguments.config, *(f"--set {value}" for value in arguments.overrides)])
    try:
        config = load_config(arguments.config, arguments.overrides)
        check_inputs(config)  # a mistake is told before Prefect starts
        _run(arguments.flow, config)
    except CaiError as error:
        sys.stderr.write(f"error: {error}\n")
        if error.exit_code == 1:
            sys.stderr.write(f"resume with: {again}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; every finished call is kept, resume with: {again}\n")
        return 130
    print_status(run_status(config.root), Console())
    return 0


def _run(name: str, config: RunConfig) -> None:
    """Run the flow; SIGTERM ends it like Ctrl-C does. Imports Prefect, so it comes after all cheap checks."""
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    from prefect.exceptions import TerminationSignal

    try:
        asyncio.run(flow(config))
    except (TerminationSignal, asyncio.CancelledError) as stop:
        raise KeyboardInterrupt from stop


if __name__ == "__main__":
    sys.exit(main())
