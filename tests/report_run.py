"""A small finished run with everything that a report page shows, through the real pipeline and a loopback server."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cai.config import RunConfig
from tests.conduct.here import pipeline
from tests.flows.small import obliging, small_run
from tests.wire import Answer, Json, wire_server

# markup, a place of the page's own, a template, ANSI, bidi, NUL and a tag character
HOSTILE = (
    "</script></blockquote></main><script>document.title='owned'</script><img src='https://example.org/x.png'>"
    "<!-- scripts -->{{ 7 * 7 }}\x1b[31m\u202eowned\u2066\x00\U000e0041"
)
RATE = {"rate": 0.5, "low": 0.25, "high": 0.75, "n": 10}


def hostile(body: Json) -> Answer:
    """As `obliging`, with a hostile text in every reply, critique and revision."""
    said = obliging(body)
    return said if said.probs else dataclasses.replace(said, text=f"{HOSTILE}{said.text}")


def finished_run(folder: Path, reply: Callable[[Json], Answer] = obliging, **changes: Any) -> RunConfig:
    """A run of 24 prompts to its end. In a thread of its own, for a browser may be open in this one."""

    async def run() -> RunConfig:
        async with wire_server(reply=reply) as server:
            config = small_run(folder, server.openai_url, **changes)
            await pipeline(config)
            return config

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, run()).result()


def add_training(root: Path, steps: int = 40) -> None:
    """What an evaluation and two trainings leave, with a resumed log whose last line was cut short."""
    found = dict.fromkeys(("harmless", "helpful", "overrefusal"), RATE)
    (root / "evaluation.json").write_text(json.dumps({"base": found, "dpo": found}))
    for model in ("sft", "dpo"):
        folder = root / "models" / model
        folder.mkdir(parents=True)
        report = {
            "kind": model, "steps": steps, "loss": 0.25, "seconds": 60.0, "data_sha256": "d" * 64,
            "model_digest": "e" * 64, "versions": {"trl": "1.16.0"},
        }  # fmt: skip
        (folder / "cai_train.json").write_text(json.dumps(report))
        rows = [{"step": step, "loss": 1 / step} for step in range(1, steps)]
        rows.append({"step": steps - 1, "loss": 0.125})
        if model == "dpo":
            rows = [row | {"rewards/margins": 0.1, "rewards/accuracies": 0.75} for row in rows]
        lines = [json.dumps(row) for row in rows]
        (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 99, "lo']))
