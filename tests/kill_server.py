"""A loopback model server that counts calls, for tests that kill their client.

Prints its port. `POST /` answers {"text": …} after a few milliseconds, the text being a digest of the body;
`GET /served?at_least=N` waits until N calls have arrived and gives their bodies' digests, oldest first.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys

from aiohttp import web


async def main() -> None:
    """Serve until killed."""
    arrived: list[str] = []
    news = asyncio.Condition()
    rng = random.Random(0)

    async def answer(request: web.Request) -> web.Response:
        digest = hashlib.sha256(await request.read()).hexdigest()
        async with news:
            arrived.append(digest)
            news.notify_all()
        await asyncio.sleep(rng.uniform(0.001, 0.012))
        return web.json_response({"text": digest})

    async def served(request: web.Request) -> web.Response:
        at_least = int(request.query["at_least"])
        async with news:
            await news.wait_for(lambda: len(arrived) >= at_least)
        return web.json_response(arrived)

    app = web.Application()
    app.router.add_post("/", answer)
    app.router.add_get("/served", served)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
