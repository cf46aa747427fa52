"""What the journal and the shard runner cost, against a bare client on the same loopback server.

Four ways through the same job (rows × calls in sequence, a fixed latency, one concurrency), in one run:
a bare aiohttp loop that keeps nothing; `run_shard` with the journal; `run_shard` again with all replies in
the journal; `run_shard` again with the manifest in place. Prints one JSON object; times in seconds, CPU is
that of the client process alone. The server runs in a process of its own, with a fixed reply.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from cai.models.base import Completion, Request, Usage, derive_seed
from cai.rows import Message, Prompt, Row
from cai.run import Ask, run_shard, shard_paths

REPLY = {
    "model": "loopback",
    "choices": [{"message": {"content": "a reply of some words " * 20}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 100},
}


class Loopback:
    """The leanest client of the server: what both sides of the comparison share."""

    identity = "loopback"

    def __init__(self, port: int, limit: int) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=limit))

    async def complete(self, request: Request) -> Completion:
        """One call."""
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        body = orjson.dumps({"messages": messages, "max_tokens": request.max_tokens, "seed": request.seed})
        async with self._session.post(self._url, data=body) as response:
            reply = orjson.loads(await response.read())
        choice, usage = reply["choices"][0], reply["usage"]
        return Completion(
            text=choice["message"]["content"],
            finish_reason=choice["finish_reason"],
            usage=Usage(prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"]),
            model=reply["model"],
        )

    async def close(self) -> None:
        """Release the connections."""
        await self._session.close()


class Result(Row):
    """What a row's calls came to."""

    id: str
    texts: tuple[str, ...]


def request_of(row: Prompt, call: int) -> Request:
    """The request of one call of a row."""
    return Request(messages=row.messages, max_tokens=100, seed=derive_seed(0, row.id, "bench", call))


async def bare(rows: Sequence[Prompt], calls: int, limit: int, model: Loopback) -> None:
    """The loop one would write by hand: `limit` workers, nothing kept."""
    source = iter(rows)

    async def worker() -> None:
        for row in source:
            for call in range(calls):
                await model.complete(request_of(row, call))

    await asyncio.gather(*(worker() for _ in range(limit)))


async def journalled(rows: Sequence[Prompt], calls: int, limit: int, model: Loopback, root: Path) -> None:
    """The same job through `run_shard`."""

    async def step(row: Prompt, ask: Ask) -> Sequence[Result]:
        texts = tuple([(await ask(request_of(row, call))).completion.text for call in range(calls)])
        return [Result(id=row.id, texts=texts)]

    await run_shard(
        stage="bench", shard=0, root=root, rows=rows, step=step, model=model, inputs_digest="d", limit=limit
    )


def measure(
    job: Callable[[Loopback], Awaitable[None]], port: int, limit: int, rows: int, calls: int
) -> dict[str, float]:
    """Wall and CPU seconds of one job, and what follows from them."""

    async def main() -> tuple[float, float]:
        model = Loopback(port, limit)
        try:
            wall, cpu = time.perf_counter(), time.process_time()
            await job(model)
            return time.perf_counter() - wall, time.process_time() - cpu
        finally:
            await model.close()

    wall, cpu = asyncio.run(main())
    return {"seconds": wall, "rows_per_s": rows / wall, "cpu_s_per_1000_calls": cpu / (rows * calls) * 1000}


def serve(latency_s: float, pipe: Connection) -> None:
    """Serve the fixed reply on a free port, sent through `pipe`, until killed."""
    body = orjson.dumps(REPLY)

    async def reply(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(latency_s)
        return web.Response(body=body, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", reply)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def server(latency_s: float) -> Iterator[int]:
    """A loopback server in its own process; gives its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(latency_s, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def compare(rows: int, calls: int, limit: int, latency_s: float, repeats: int) -> dict[str, Any]:
    """Run all four ways `repeats` times in turn and report medians and ratios."""
    text = "a question of some words " * 20
    prompts = [
        Prompt(id=f"p{i}", messages=(Message(role="user", content=f"{i} {text}"),), source="bench")
        for i in range(rows)
    ]
    runs: dict[str, list[dict[str, float]]] = {"bare": [], "run_shard": [], "replay": [], "done": []}
    with server(latency_s) as port:

        def timed(name: str, job: Callable[[Loopback], Awaitable[None]]) -> None:
            runs[name].append(measure(job, port, limit, rows, calls))

        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                through = lambda model, root=root: journalled(prompts, calls, limit, model, root)  # noqa: E731
                timed("bare", lambda model: bare(prompts, calls, limit, model))
                timed("run_shard", through)
                shard_paths(root, "bench", 0).manifest.unlink()
                timed("replay", through)
                timed("done", through)
    return summary(runs, rows * calls)


def summary(runs: dict[str, list[dict[str, float]]], total_calls: int) -> dict[str, Any]:
    """Medians over the repeats, ratios of `run_shard` to `bare`, overhead in milliseconds of CPU a call."""
    median = {
        name: {key: round(statistics.median(run[key] for run in found), 4) for key in found[0]}
        for name, found in runs.items()
    }
    base, ours = median["bare"], median["run_shard"]
    return {
        "calls": total_calls,
        **median,
        "rows_per_s_ratio": round(ours["rows_per_s"] / base["rows_per_s"], 3),
        "cpu_ratio": round(ours["cpu_s_per_1000_calls"] / base["cpu_s_per_1000_calls"], 3),
        "overhead_cpu_ms_per_call": round(ours["cpu_s_per_1000_calls"] - base["cpu_s_per_1000_calls"], 4),
        "rerun_from_journal_s": median["replay"]["seconds"],
        "rerun_done_s": median["done"]["seconds"],
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=5, help="calls per row, one after the other")
    parser.add_argument("--limit", type=int, default=64, help="concurrent calls")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the server waits per call")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    result = compare(options.rows, options.calls, options.limit, options.latency, options.repeats)
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
