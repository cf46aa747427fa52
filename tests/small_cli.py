"""The command line against the loopback server: a config file for it, and a run of `cai` beside the server's loop."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent


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
    """This process's environment without what changes how a terminal is written to."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    return {**kept, "COLUMNS": "120", **more}


async def cai(*arguments: str | Path, cwd: Path = ROOT, **more: str) -> Done:
    """Run `cai` as a user does, without stopping the server that lives in this loop."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cai", *map(str, arguments), cwd=cwd, env=environment(**more),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return Done(process.returncode, out.decode(), err.decode())


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
