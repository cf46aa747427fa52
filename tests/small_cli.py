"""The command line in tests: a config file for the loopback server, and `cai` in a process of its own.

A command costs more to import than to run. So the process is forked from one that has imported what commands
import; it has its own arguments, environment, folder, output and exit status like any other.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cai.cli import main

ROOT = Path(__file__).parent.parent
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.preloaded"])


class Done(NamedTuple):
    """What a command left: exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one JSON object."""
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """This process's environment without any API key, and without what changes how a terminal is written to."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS") and not name.endswith("_API_KEY")
    }
    return {**kept, "COLUMNS": "120", **more}


def run_cai(*arguments: str | Path, cwd: str | Path = ROOT, **more: str) -> Done:
    """Run `cai` as a user does, to its end; `more`: variables of its environment."""
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        words = ["cai", *map(str, arguments)]
        process = FORKED.Process(target=_command, args=(words, str(cwd), environment(**more), out, err))
        process.start()
        process.join()
        assert process.exitcode is not None
        done = Done(process.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))
    assert "Traceback" not in done.err, done.err
    return done


async def cai(*arguments: str | Path, cwd: str | Path = ROOT, **more: str) -> Done:
    """`run_cai` without stopping the server that lives in this loop."""
    return await asyncio.to_thread(run_cai, *arguments, cwd=cwd, **more)


def _command(words: list[str], cwd: str, variables: dict[str, str], out: Path, err: Path) -> None:
    """The forked process: what a shell sets up, and the program."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = words
    main()


def config_file(folder: Path, endpoint: str, models: Sequence[str] = ("toy",), **changes: Any) -> Path:
    """A run config against a vLLM server at `endpoint`, with one prompt for each of the tags `one` and `two`."""
    rows = [
        {"id": f"p{i}", "prompt": f"Tell me about {i}.", "tags": ["one" if i % 2 else "two"]}
        for i in range(12)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config: dict[str, Any] = {
        "name": "small",
        "outputs": str(folder / "outputs"),
        "constitution": str(folder / "edited.yaml"),
        "prompts": [{"path": str(folder / "prompts.jsonl")}],
        "models": {
            name: {"backend": "vllm", "model": name, "endpoint": endpoint, "deadline_s": 2} for name in models
        },
        "policy": {"model": models[0], "sampling": {"max_tokens": 32}},
        "critic": {"model": models[0], "rounds": 1, "sampling": {"max_tokens": 64}},
        "judge": {"model": models[0]},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config | changes))
    return path
