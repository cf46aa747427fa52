"""Runs one shard in batches, to be killed at any moment: `batch_worker.py ROOT BACKEND MODE URL ROWS`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cai.config import ModelConfig
from cai.models import open_model
from cai.models.base import Request
from cai.models.batch import collect, follow
from cai.rows import Message, Prompt, Reply
from cai.shard.run import Ask, run_shard

collect.LINGER_S = 60.0  # every batch is full, so none is closed by the clock
follow.POLL_FIRST_S = follow.POLL_CAP_S = 0.02
follow.SETTLE_S = 1.0


async def step(row: Prompt, ask: Ask) -> Sequence[Reply]:
    """A call, and one that depends on its reply."""
    first = await ask(Request(messages=row.messages, max_tokens=16))
    said = Message(role="user", content=first.completion.text)
    second = await ask(Request(messages=(said,), max_tokens=16))
    calls = (first.call, second.call)
    text = second.completion.text
    return [
        Reply(id=f"{row.id}/r", prompt=row, sample=0, text=text, finish_reason="stop", model="m", calls=calls)
    ]


def prompts(count: int) -> list[Prompt]:
    """Prompts `p0`, `p1` …"""
    return [
        Prompt(id=f"p{i}", messages=(Message(role="user", content=f"q{i}"),), source="test")
        for i in range(count)
    ]


async def main(root: str, backend: str, mode: str, url: str, rows: str) -> None:
    """Run the shard to its end."""
    fields = {"backend": backend, "model": "toy", "mode": mode, "endpoint": url, "max_concurrency": int(rows)}
    model = open_model("toy", ModelConfig.model_validate(fields), folder=Path(root), say=print)
    try:
        await run_shard(
            stage="batch", shard=0, root=Path(root), rows=prompts(int(rows)), step=step, model=model,
            inputs_digest="d", limit=int(rows),
        )  # fmt: skip
    finally:
        await model.close()


if __name__ == "__main__":
    os.environ |= {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    asyncio.run(main(*sys.argv[1:]))
