"""Deploy: a checked config becomes Prefect deployments, run by a work pool or served from this process.

Two runs of one deployment never overlap, and a run that falls due while one is going is cancelled, not queued: the
next one does whatever there is to do by then, so runs that take longer than their interval leave no backlog.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai.config import RunConfig, SourceConfig
from cai.config_file import load_config
from cai.errors import CaiError, ConfigError
from cai.judges.qualification import to_measure
from cai.models.check import missing_keys
from cai.preflight import check_inputs, check_judge
from cai.sources.inbox import check_inbox
from flows.times import schedule_asked
from flows.wanted import FLOWS, Wanted

POOL = "local"


def main(argv: Sequence[str]) -> int:
    """`python -m flows deploy CONFIG …`, as `cai deploy` starts it."""
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config, arguments.overrides)
        if missing_keys(config):
            _load_keys(config)
        wanted = wanted_of(config, arguments)
        if arguments.serve:
            from flows.serve import serve

            return serve(wanted, config.root / "logs" / "prefect-server.log", as_json=arguments.as_json)
        from flows.deployments import deploy

        found = asyncio.run(deploy(wanted, arguments.work_pool or POOL))
    except CaiError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    from flows.deployments import show

    show(found, arguments.as_json)
    return 0


def _load_keys(config: RunConfig) -> None:
    """Keys from Prefect's blocks, where there is a server that has them; whether it answers is told later."""
    from httpx import HTTPError
    from prefect.settings import PREFECT_API_URL

    from flows.secrets import load_keys

    if PREFECT_API_URL.value():
        with contextlib.suppress(HTTPError, RuntimeError):
            asyncio.run(load_keys(config))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cai deploy")
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    for option in ("--name", "--cron", "--interval", "--timezone", "--work-pool", "--inbox"):
        parser.add_argument(option)
    parser.add_argument("--flow", default="pipeline")
    parser.add_argument("--min-pass-rate", type=float)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--json", dest="as_json", action="store_true")
    return parser


def wanted_of(config: RunConfig, arguments: argparse.Namespace) -> list[Wanted]:
    """What a command line asks for, checked. Raises ConfigError, or what `check_inputs` raises."""
    if arguments.flow not in FLOWS:
        raise ConfigError(f"--flow {arguments.flow}: there is no such flow; choose one of {', '.join(FLOWS)}")
    if arguments.serve and arguments.work_pool:
        raise ConfigError("--serve runs here, without a pool; leave --work-pool out")
    cron, interval_s, timezone = schedule_asked(arguments)
    if arguments.all and (cron or interval_s):
        raise ConfigError("--all makes deployments without a schedule; schedule one flow with --flow")
    names = _able(config, arguments.inbox) if arguments.all else [arguments.flow]
    for option in ("inbox", "min_pass_rate"):
        if getattr(arguments, option) is not None and "nightly" not in names:
            raise ConfigError(f"--{option.replace('_', '-')} is for --flow nightly; leave it out")
    for name in names:
        _check(name, config, arguments.inbox)
    return [
        Wanted(
            name,
            arguments.name or config.name,
            _parameters(name, config, arguments),
            cron,
            interval_s,
            timezone,
        )
        for name in names
    ]


def _able(config: RunConfig, inbox: str | None) -> list[str]:
    """The flows that the config has what it takes for."""
    needs = {"train": config.trained, "evaluate": config.evaluate, "nightly": inbox}
    return [name for name in FLOWS if needs.get(name, True)]


def _check(name: str, config: RunConfig, inbox: str | None) -> None:
    """Raises ConfigError where the flow could not run with this config."""
    if name == "qualify":
        check_judge(to_measure(config))
        return
    check_inputs(config)
    if name == "nightly":
        if inbox is None:
            raise ConfigError("--flow nightly needs --inbox FOLDER, where new prompt files come in")
        check_inbox(SourceConfig(path=inbox))
    elif name not in _able(config, inbox):
        sections = "that trains (sft, dpo, …)" if name == "train" else "evaluate"
        raise ConfigError(
            f"--flow {name}: the config has no section {sections}; add it, or choose another flow"
        )


def _parameters(name: str, config: RunConfig, arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole resolved config, so that the form in the UI shows what will run."""
    found: dict[str, Any] = {"config": config.model_dump(mode="json"), "overrides": []}
    if name == "nightly":
        found["inbox"] = SourceConfig(path=str(Path(arguments.inbox).absolute())).model_dump(mode="json")
        if arguments.min_pass_rate is not None:
            found["min_pass_rate"] = arguments.min_pass_rate
    return found
