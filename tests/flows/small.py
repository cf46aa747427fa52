"""A small run against the loopback server: its files, its config, and a model that does what every template asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cai.config import RunConfig
from tests.wire import Answer, Json, asked_choices, echo

CONSTITUTION = """\
schema: 1
name: small
version: "1"
principles:
  - {id: kind, statement: Be kind.}
  - {id: honest, statement: Be honest.}
  - {id: brief, statement: Be brief., weight: 2}
"""
ROWS = 24


def obliging(body: Json) -> Answer:
    """Critiques where that is asked, chooses where choices are given, else replies; all from the body's digest."""
    drawn = echo(body)
    if asked_choices(body):
        sure = (
            {"A": 0.95, "B": 0.05}
            if "reply 0" in drawn.text or drawn.probs.get("A", 0) > 0.4
            else {"A": 0.1, "B": 0.9}
        )
        return Answer(max(sure, key=lambda name: sure[name]), sure)
    if "VERDICT" in body["messages"][-1]["content"]:
        verdict = "breaks" if int(drawn.text[-1], 16) % 3 else "keeps"
        return Answer(f"Seen {drawn.text}.\nVERDICT: {verdict}")
    return drawn


def write_inputs(folder: Path) -> None:
    """The constitution and the prompts: ROWS good ones, of one and of three turns, and two that must be dropped."""
    (folder / "small.yaml").write_text(CONSTITUTION)
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    rows: list[dict[str, Any]] = []
    for index in range(ROWS):
        last = {"role": "user", "content": f"Tell me about {index} {{principle}}."}
        rows.append({"id": f"p{index}", "messages": [*turns, last] if index % 3 == 0 else [last]})
    rows += [{"id": "empty", "prompt": "  "}, {"id": "twice", "prompt": "Tell me about 1 {principle}."}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def small_config(folder: Path, endpoint: str, **changes: Any) -> dict[str, Any]:
    """A run of three stages and a dataset, without training, against a vLLM server at `endpoint`."""
    config: dict[str, Any] = {
        "name": "small",
        "outputs": str(folder / "outputs"),
        "constitution": str(folder / "small.yaml"),
        "shards": 3,
        "prompts": [{"path": str(folder / "prompts.jsonl"), "tags": ["helpful"]}],
        "models": {"toy": {"backend": "vllm", "model": "toy", "endpoint": endpoint, "max_concurrency": 8}},
        "policy": {"model": "toy", "n": 2, "sampling": {"max_tokens": 32}},
        "critic": {"model": "toy", "rounds": 2, "sampling": {"max_tokens": 64}},
        "judge": {"model": "toy", "principles": 2, "threshold": 0.6},
    }
    return config | changes


def small_run(folder: Path, endpoint: str, **changes: Any) -> RunConfig:
    """Inputs and config in one."""
    write_inputs(folder)
    return RunConfig.model_validate(small_config(folder, endpoint, **changes))


def published(root: Path) -> dict[str, bytes]:
    """Every published row, drop and dataset file of a run, by relative path."""
    found = [*root.glob("*/rows-*.jsonl"), *root.glob("*/drops-*.jsonl"), *root.glob("dataset/*/train.jsonl")]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(found)}
