"""Runs one shard against `kill_server`, to be killed at any moment: `kill_worker.py ROOT PORT ROWS LIMIT`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from cai.models.base import Completion, Request, Usage, derive_seed
from cai.rows import Message, Prompt, Reply
from cai.run import Ask, run_shard


class Loopback:
    """The client of `kill_server`."""

    identity = "loopback"

    def __init__(self, port: str) -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self._session = aiohttp.ClientSession()

    async def complete(self, request: Request) -> Completion:
        """One call."""
        async with self._session.post(self._url, data=request.model_dump_json()) as response:
            text = (await response.json())["text"]
        return Completion(text=text, finish_reason="stop", usage=Usage(), model="loopback")

    async def close(self) -> None:
        """Release the connections."""
        await self._session.close()


async def step(row: Prompt, ask: Ask) -> Sequence[Reply]:
    """Two calls side by side, then a third that depends on the first."""

    def request(text: str, sample: int) -> Request:
        seed = derive_seed(0, row.id, "kill", 0, sample)
        return Request(messages=(Message(role="user", content=text),), max_tokens=1, seed=seed)

    first, second = await asyncio.gather(ask(request("one", 0)), ask(request("two", 1)))
    third = await ask(request(first.completion.text, 2))
    text = "\n".join(asked.completion.text for asked in (first, second, third))
    calls = (first.call, second.call, third.call)
    return [
        Reply(id=f"{row.id}/r", prompt=row, sample=0, text=text, finish_reason="stop", model="m", calls=calls)
    ]


async def main(root: str, port: str, rows: str, limit: str) -> None:
    """Run the shard to its end."""
    model = Loopback(port)
    prompts = [
        Prompt(id=f"p{i}", messages=(Message(role="user", content=str(i)),), source="kill")
        for i in range(int(rows))
    ]
    try:
        await run_shard(
            stage="kill", shard=0, root=Path(root), rows=prompts, step=step, model=model, inputs_digest="d",
            limit=int(limit),
        )  # fmt: skip
    finally:
        await model.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
