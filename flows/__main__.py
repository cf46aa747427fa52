"""`python -m flows NAME CONFIG [--set key=value]`: one flow from the command line, as `cai run` starts it.

Works without a Prefect server (Prefect starts a temporary one of its own) and with one (PREFECT_API_URL).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any

if sys.argv[1:2] != ["deploy"]:  # what is served tells of its runs
    # our own progress and errors are what a terminal shows
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")

from rich.console import Console

from cai.conduct.main import run_in_loop, show, told
from cai.config import RunConfig
from cai.evaluate.require import read_conditions
from cai.judges.qualification import to_measure
from cai.models.check import missing_keys
from cai.preflight import check_inputs, check_judge
from cai.process import loading
from cai.report.tables import plain
from flows.api import api_for

FLOWS = ("generate", "revise", "judge", "train", "evaluate", "pipeline")
JUDGE_FLOWS = ("qualify", "calibrate")
FIRST = (  # Prefect imports them with the first flow, which waits for the server; here they load beside it
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.utilities.visualization",
    "fastapi",
)


def main() -> int:
    """Run a flow; errors of the user's are one line, an interrupted run says how to go on."""
    parser = argparse.ArgumentParser(prog="cai run")
    parser.add_argument("flow", choices=(*FLOWS, *JUDGE_FLOWS))
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", help="calibrate: where the calibration goes")
    parser.add_argument("--method", default="temperature", help="calibrate: temperature, platt or isotonic")
    parser.add_argument("--require", help="evaluate: conditions that the models must meet")
    parser.add_argument("--json", action="store_true", help="qualify, calibrate: print one JSON object")
    arguments = parser.parse_args()
    if arguments.require is not None and arguments.flow != "evaluate":
        parser.error("--require: only evaluate measures what it is held against")

    def run(config: RunConfig) -> int:
        early = not missing_keys(config)  # Prefect may have them; the flow looks at all the rest then
        if arguments.flow in JUDGE_FLOWS:
            if early:
                check_judge(to_measure(config))
            return _judge(arguments, config)
        conditions = read_conditions(arguments.require, config)
        if early:
            check_inputs(config)  # a mistake is told before Prefect starts
        _run(arguments.flow, config)
        return show(config, conditions)

    given = {name: getattr(arguments, name) for name in ("require", "out") if getattr(arguments, name)}
    if arguments.flow == "calibrate":
        given["method"] = arguments.method
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    return told(arguments.flow, arguments.config, arguments.overrides, run, options)


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
    with api_for(config) as ready:
        with loading():
            from prefect.exceptions import TerminationSignal

            flow = getattr(importlib.import_module(f"flows.{module or name}"), name)
            for late in FIRST:
                importlib.import_module(late)
        try:
            ready()
            return run_in_loop(flow(config, **options))
        except TerminationSignal as stop:
            raise KeyboardInterrupt from stop


if __name__ == "__main__":
    if sys.argv[1:2] == ["deploy"]:
        from flows.deploy import main as deploy

        sys.exit(deploy(sys.argv[2:]))
    sys.exit(main())
