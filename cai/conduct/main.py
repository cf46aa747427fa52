"""A run as a command: one line for an error, an exit status, how to go on, and at the end what came of it.

The same whether Prefect runs the flow (`python -m flows`) or this process alone does (`cai run --no-prefect`).
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rich.console import Console

from cai.conduct.stop import Interrupt, print_so_far, stop_listening, stoppable
from cai.config import RunConfig
from cai.config_file import load_config
from cai.errors import CaiError, ConfigError
from cai.evaluate.require import Condition, check, lines_of, read_conditions
from cai.printable import one_line
from cai.process import loading
from cai.report.status import run_status
from cai.report.summary import print_status
from cai.report.tables import plain
from cai.store import is_refusal
from cai.store import told as refused

INTERRUPTED = 130  # exit status after Ctrl-C, SIGTERM and a closed terminal alike: the run can be resumed
OUT_OF_MEMORY = (
    "this process may take no more memory; every finished call is kept: set more 'shards' (their rows and replies are "
    "what is held) or a lower max_concurrency of the models, or raise the limit (ulimit -v, the container's)"
)
COMMANDS = {
    "pipeline": "cai run",
    "train": "cai train",
    "evaluate": "cai eval",
    "qualify": "cai judge qualify",
    "calibrate": "cai judge calibrate",
}


def run_here(name: str, file: str, overrides: Sequence[str], require: str | None = None) -> int:
    """Run `pipeline`, `train` or `evaluate` in this process, and show what came of it; returns the exit status."""

    def run(config: RunConfig) -> int:
        conditions = read_conditions(require, config)
        with loading():
            from cai.conduct.models import evaluate, train
            from cai.conduct.pipeline import pipeline
            from cai.conduct.work import HERE

        if config.ray is not None:
            raise ConfigError(
                "ray: its workers are run through Prefect; leave --no-prefect out, or the section"
            )
        sequence = {"pipeline": pipeline, "train": train, "evaluate": evaluate}[name]
        run_in_loop(sequence(config, HERE))
        return show(config, conditions)

    options = ["--no-prefect"] if require is None else ["--no-prefect", "--require", require]
    return told(name, file, overrides, run, options)


def told(
    name: str,
    file: str,
    overrides: Sequence[str],
    run: Callable[[RunConfig], int],
    options: Sequence[str] = (),
) -> int:
    """Read the config and run; an error of the user's is one line, what was interrupted says how to go on.

    `name`: of what is run, `pipeline`, `train` …; `options`: what else the command to go on with has to say.
    """
    command = COMMANDS.get(name, f"python -m flows {name}").split()
    again = one_line(
        shlex.join([*command, file, *options, *(word for value in overrides for word in ("--set", value))])
    )
    config = None
    with stoppable():
        try:
            config = load_config(file, overrides)
            return run(config)
        except CaiError as error:
            code = error.exit_code
            sys.stderr.write(f"error: {error}\n")
        except OSError as error:
            if not is_refusal(error):
                raise
            code = 1
            sys.stderr.write(f"error: {refused(error)}\n")
        except MemoryError:
            code = 1
            sys.stderr.write(f"error: {OUT_OF_MEMORY}\n")
        except KeyboardInterrupt:
            stop_listening()
            code = INTERRUPTED
            sys.stderr.write(f"interrupted; every finished call is kept, resume with: {again}\n")
        if code == 1:
            sys.stderr.write(f"resume with: {again}\n")
        if config is not None and code != ConfigError.exit_code:
            print_so_far(config, only_begun=code != INTERRUPTED)
        return code


def show(config: RunConfig, conditions: Sequence[Condition] = ()) -> int:
    """Print what a run that is through has come to; returns its exit status, 1 where a condition is not met."""
    status, console = run_status(config.root), Console()
    print_status(status, console)
    checked = check(conditions, status["evaluation"])
    for line in lines_of(checked):
        console.print(plain(line), soft_wrap=True, highlight=False)
    return 0 if all(found.met for found in checked) else 1


def run_in_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on the fastest event loop there is; Ctrl-C cancels it and raises KeyboardInterrupt."""

    async def main() -> Any:
        interrupt.task = asyncio.current_task()
        asyncio.get_running_loop().set_exception_handler(interrupt.unless_bug)
        return await work

    try:
        with Interrupt() as interrupt, asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(main())
    except asyncio.CancelledError as stop:
        raise KeyboardInterrupt from stop


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it can be imported; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
