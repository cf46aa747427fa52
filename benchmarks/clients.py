"""What one would write by hand: the same job with nothing but a client library, and nothing kept.

    python -m benchmarks.clients aiohttp --url http://127.0.0.1:8000 --rows 1000 --limit 64

`limit` workers take a row each and make its five calls one after the other. `aiohttp`: a session, orjson, the
standard event loop; `aiohttp-uvloop`: the same on uvloop; `sdk`: the OpenAI SDK's async client as it comes, or,
for `sdk-aiohttp`, on its aiohttp transport.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.job import MODEL, compare_prompt, critique_prompt, questions, revise_prompt

Ask = Callable[[str, dict[str, Any]], Awaitable[str]]
CHOICE: dict[str, Any] = {"max_tokens": 1, "logprobs": True, "temperature": 0.0}
CHOICE_OF_VLLM: dict[str, Any] = {"structured_outputs": {"choice": ["A", "B"]}, "logprob_token_ids": [65, 66]}
CLIENTS = ("aiohttp", "aiohttp-uvloop", "sdk", "sdk-aiohttp")


async def row(question: str, ask: Ask) -> str:
    """The five calls of one row; gives the letter that both orders agree on, or "tie"."""
    reply = await ask(question, {"max_tokens": 256})
    critique = await ask(critique_prompt(question, reply), {"max_tokens": 256})
    words = critique.rpartition("\n")[0]
    revision = await ask(revise_prompt(question, reply, words), {"max_tokens": 256})
    first = await ask(compare_prompt(question, reply, revision), CHOICE)
    second = await ask(compare_prompt(question, revision, reply), CHOICE)
    return "tie" if first == second else first


async def work(rows: int, limit: int, ask: Ask) -> int:
    """All rows, `limit` at a time; gives the number of rows with a label."""
    source, labelled = iter(questions(rows)), 0

    async def worker() -> None:
        nonlocal labelled
        for question in source:
            found = await row(question, ask)
            labelled += found != "tie"

    await asyncio.gather(*(worker() for _ in range(limit)))
    return labelled


async def with_aiohttp(url: str, rows: int, limit: int) -> int:
    """The job over one aiohttp session."""
    import aiohttp
    import orjson

    connector = aiohttp.TCPConnector(limit=limit)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(text: str, options: dict[str, Any]) -> str:
            body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **options}
            if "logprobs" in options:
                body |= CHOICE_OF_VLLM
            async with session.post(f"{url}/v1/chat/completions", data=orjson.dumps(body)) as response:
                reply = orjson.loads(await response.read())
            return str(reply["choices"][0]["message"]["content"])

        return await work(rows, limit, ask)


async def with_sdk(url: str, rows: int, limit: int, transport: bool) -> int:
    """The job through the OpenAI SDK. `transport`: on aiohttp instead of its default."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    async with AsyncExitStack() as stack:
        client = AsyncOpenAI(
            base_url=f"{url}/v1",
            api_key="none",
            max_retries=0,
            http_client=await stack.enter_async_context(DefaultAioHttpClient()) if transport else None,
        )
        await stack.enter_async_context(client)

        async def ask(text: str, options: dict[str, Any]) -> str:
            more = CHOICE_OF_VLLM if "logprobs" in options else None
            reply = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}], extra_body=more, **options
            )
            return reply.choices[0].message.content or ""

        return await work(rows, limit, ask)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the job; 1 where a row came out without a label."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=64)
    options = parser.parse_args(arguments)
    url, rows, limit = options.url, options.rows, options.limit
    if options.client.startswith("sdk"):
        labelled = asyncio.run(with_sdk(url, rows, limit, options.client == "sdk-aiohttp"))
    elif options.client == "aiohttp-uvloop":
        import uvloop

        labelled = uvloop.run(with_aiohttp(url, rows, limit))
    else:
        labelled = asyncio.run(with_aiohttp(url, rows, limit))
    sys.stdout.write(f"{labelled} of {rows} rows labelled\n")
    sys.exit(labelled != rows)


if __name__ == "__main__":
    main()
