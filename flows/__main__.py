"""`python -m flows NAME CONFIG [--set key=value]`: one flow from the command line, as `cai run` starts it.

Works without a Prefect server (Prefect starts a temporary one of its own) and with one (PREFECT_API_URL).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if sys.argv[1:2] != ["deploy"]:  # what is served tells of its runs
    # our own progress and errors are what a terminal shows
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")

from rich.console import Console

from cai.conduct.main import loop_factory, show, told
from cai.config import RunConfig
from cai.errors import ConfigError
from cai.preflight import check_inputs, check_judge
from cai.qualification import to_measure
from cai.report.tables import plain

FLOWS = ("generate", "revise", "judge", "train", "evaluate", "pipeline")
JUDGE_FLOWS = ("qualify", "calibrate")


def main() -> int:
    """Run a flow; errors of the user's are one line, an interrupted run says how to go on."""
    parser = argparse.ArgumentParser(prog="cai run")
    parser.add_argument("flow", choices=(*FLOWS, *JUDGE_FLOWS))
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", help="calibrate: where the calibration goes")
    parser.add_argument("--method", default="temperature", help="calibrate: temperature, platt or isotonic")
    parser.add_argument("--json", action="store_true", help="qualify, calibrate: print one JSON object")
    arguments = parser.parse_args()

    def run(config: RunConfig) -> int:
        if arguments.flow in JUDGE_FLOWS:
            check_judge(to_measure(config))
            return _judge(arguments, config)
        check_inputs(config)  # a mistake is told before Prefect starts
        _run(arguments.flow, config)
        return show(config)

    return told(arguments.config, arguments.overrides, run)


def _judge(arguments: argparse.Namespace, config: RunConfig) -> int:
    """Qualify or calibrate, and print the figures; 1 for a judge that is refused where the question was that."""
    from cai.cli.common import print_json
    from cai.judge.summary import Summary
    from cai.report.judge import print_summary

    calibrating = arguments.flow == "calibrate"
    options = {"out": arguments.out, "method": arguments.method} if calibrating else {}
    found = _run(arguments.flow, config, module="qualify", **options)
    if arguments.json:
        print_json(found)
    else:
        print_summary(Summary.model_validate({k: v for k, v in found.items() if k != "dropped"}), Console())
        if calibrating:
            Console().print(f"calibration  {plain(arguments.out)}", soft_wrap=True)
    return 0 if found["qualified"] or calibrating else 1


def _run(name: str, config: RunConfig, module: str | None = None, **options: str) -> Any:
    """Run the flow; SIGTERM ends it like Ctrl-C does. Imports Prefect, so it comes after all cheap checks."""
    from prefect.exceptions import TerminationSignal

    try:
        with _api(config) as ready:
            flow = getattr(importlib.import_module(f"flows.{module or name}"), name)
            ready()
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                return runner.run(flow(config, **options))
    except (TerminationSignal, asyncio.CancelledError) as stop:
        raise KeyboardInterrupt from stop


@contextlib.contextmanager
def _api(config: RunConfig) -> Iterator[Callable[[], None]]:
    """A Prefect API for the block: the configured one, or that of a temporary server, which `ready()` waits for.

    Raises ConfigError where Ray's workers on other nodes could not reach it.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import APP, TEMPORARY, free_port, started, wait_for

    if PREFECT_API_URL.value():
        yield lambda: None
        return
    if config.ray is not None and config.ray.address is not None:
        raise ConfigError(
            "ray.address: the workers report to a Prefect server; start one (`prefect server start`) and set "
            "PREFECT_API_URL to where they reach it"
        )
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "prefect-server.log"
        with (
            started(APP, free_port(), TEMPORARY, log) as server,
            temporary_settings({PREFECT_API_URL: server.url}),
        ):
            yield lambda: wait_for(server)
            _flush()


def _flush() -> None:
    """Let the server hear of everything before it ends."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["deploy"]:
        from flows.deploy import main as deploy

        sys.exit(deploy(sys.argv[2:]))
    sys.exit(main())
