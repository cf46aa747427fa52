"""The pace of calls over HTTP: every backend against a loopback server that limits, and prompt caching marks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import orjson
import pytest
from aiohttp import web
from pydantic import ValidationError

from cai.config import ModelConfig, PriceConfig
from cai.models import limits, open_model, retry, shared_prefix
from cai.models.anthropic import message_body
from cai.models.base import ChatModel, Request, Usage
from cai.models.cost import cost, list_price, price_list
from cai.models.pace import pacer_of
from cai.rows import Message
from tests.wire import Answer, Fault, Wire, chat_reply, message_reply, wire_server

pytestmark = pytest.mark.anyio
Backend = Literal["vllm", "openai", "anthropic"]
BACKENDS: tuple[Backend, ...] = ("vllm", "openai", "anthropic")
every_backend = pytest.mark.parametrize("backend", BACKENDS)
Json = dict[str, Any]


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop that is supported."""
    return "asyncio"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A key for the hosted backends, and backoff in milliseconds."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-toy")
    monkeypatch.setattr(retry, "BASE_S", 0.002)
    monkeypatch.setattr(retry, "CAP_S", 0.02)
    yield


def config(backend: Backend, url: str, **changes: Any) -> ModelConfig:
    """A model of a loopback server."""
    endpoint = f"{url}/v1" if backend == "openai" else url
    return ModelConfig.model_validate({"backend": backend, "model": "toy", "endpoint": endpoint, **changes})


@asynccontextmanager
async def opened(backend: Backend, url: str, **changes: Any) -> AsyncIterator[ChatModel]:
    """The model, closed at the end."""
    model = open_model("toy", config(backend, url, **changes))
    try:
        yield model
    finally:
        await model.close()


def ask(text: str, *, system: str = "", before: tuple[str, ...] = (), **fields: Any) -> Request:
    """A request with turns before the last one, by user and assistant in turn."""
    turns = [Message(role="system", content=system)] if system else []
    for index, turn in enumerate((*before, text)):
        turns.append(Message(role="assistant" if index % 2 else "user", content=turn))
    return Request.model_validate({"messages": turns, "max_tokens": 32, **fields})


async def many(model: ChatModel, calls: int, at_once: int, start: int = 0) -> int:
    """Make so many different calls; returns how many were answered."""
    left, done = iter(range(start, start + calls)), 0

    async def caller() -> None:
        nonlocal done
        for number in left:
            await model.complete(ask(f"call {number}"))
            done += 1

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return done


@every_backend
async def test_the_pace_falls_under_sustained_429s_and_comes_back(backend: Backend) -> None:
    """Nothing is lost; calls in flight fall to what the server takes, and rise when it takes all again."""
    healthy = False

    def faults(number: int) -> Fault | None:
        return None if healthy or server.in_flight <= 4 else Fault(status=429)

    async with (
        wire_server(faults=faults, delay_s=0.002) as server,
        opened(backend, server.url, max_concurrency=32) as model,
    ):
        endpoint = {"vllm": server.url, "openai": f"{server.url}/v1/", "anthropic": server.url}[backend]
        pacer = pacer_of(config(backend, server.url, max_concurrency=32), endpoint)
        assert await many(model, 120, 48) == 120
        assert pacer.limit <= 16 and server.peak == 32
        healthy = True
        assert await many(model, 450, 48, start=120) == 450
        assert pacer.limit == 32 and pacer.in_flight == 0
    assert server.calls > 570


@every_backend
async def test_connections_are_kept_and_shared(backend: Backend) -> None:
    """A whole stage needs no more connections than calls in flight."""
    async with wire_server(delay_s=0.001) as server, opened(backend, server.url, max_concurrency=6) as model:
        await many(model, 120, 12)
    assert server.calls == 120
    assert server.connections <= 6


@every_backend
async def test_clients_of_a_model_share_its_pace(backend: Backend) -> None:
    """Two clients of one model have no more calls in flight together than one may have."""
    async with (
        wire_server(delay_s=0.005) as server,
        opened(backend, server.url, max_concurrency=3) as one,
        opened(backend, server.url, max_concurrency=3) as two,
    ):
        await asyncio.gather(many(one, 20, 5), many(two, 20, 5, start=20))
    assert (server.calls, server.peak) == (40, 3)


@every_backend
async def test_limits_per_minute_hold_for_every_backend(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a minute of one second: 20 requests in it, two at once, over two clients."""
    monkeypatch.setattr(limits, "MINUTE_S", 1.0)
    changes = {"limits": {"requests_per_minute": 20, "tokens_per_minute": 1_000_000}}
    async with (
        wire_server() as server,
        opened(backend, server.url, **changes) as one,
        opened(backend, server.url, **changes) as two,
    ):
        start = time.monotonic()
        await asyncio.gather(many(one, 6, 6), many(two, 6, 6, start=6))
        seconds = time.monotonic() - start
    assert server.calls == 12
    assert seconds > (12 - 2) / 20 - 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": {}}, "give 'requests_per_minute', 'tokens_per_minute' or both"),
        ({"limits": {"requests_per_minute": 0}}, "greater than 0"),
        (
            {
                "backend": "vllm",
                "endpoint": None,
                "managed": {"in_process": True},
                "limits": {"tokens_per_minute": 9},
            },
            "an engine in this process has none",
        ),
    ],
)
def test_limits_that_limit_nothing_are_refused(changes: Json, message: str) -> None:
    """An empty section, a rate of nothing, and limits where there is no account."""
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"backend": "openai", "model": "toy", **changes})


@asynccontextmanager
async def limited_server(backend: Backend, allowed: int, window_s: float) -> AsyncIterator[tuple[str, Json]]:
    """A server that takes `allowed` requests a window, answers 429 beyond, and says in headers what is left.

    Yields its URL and the counters `answered` and `refused`.
    """
    seen: Json = {"answered": 0, "refused": 0, "left": allowed, "until": 0.0}

    def headers() -> dict[str, str]:
        ahead = max(seen["until"] - time.monotonic(), 0.001)
        if backend == "openai":
            name, reset = "x-ratelimit-{}-requests", f"{ahead * 1000:.0f}ms"
        else:
            name, reset = (
                "anthropic-ratelimit-requests-{}",
                (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat(),
            )
        values = {"limit": str(allowed), "remaining": str(seen["left"]), "reset": reset}
        return {name.format(part): value for part, value in values.items()}

    async def handle(request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if time.monotonic() >= seen["until"]:
            seen["until"], seen["left"] = time.monotonic() + window_s, allowed
        if not seen["left"]:
            seen["refused"] += 1
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers())
        seen["left"] -= 1
        seen["answered"] += 1
        said = headers()
        await asyncio.sleep(0.005)
        reply = (chat_reply if backend == "openai" else message_reply)(body, Answer("fine"))
        return web.json_response(reply, headers=said)

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", handle), web.post("/v1/messages", handle)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("backend", ["openai", "anthropic"])
@pytest.mark.slow
async def test_what_the_headers_leave_is_not_overdrawn(backend: Backend) -> None:
    """When the window is used up, calls wait for the next one instead of earning 429s."""
    async with (
        limited_server(backend, allowed=10, window_s=0.5) as (url, seen),
        opened(backend, url, max_concurrency=4) as model,
    ):
        start = time.monotonic()
        assert await many(model, 35, 8) == 35
        assert time.monotonic() - start > 3 * 0.5 - 0.05
    assert (seen["answered"], seen["refused"]) == (35, 0)


LONG = "Be kind, and say what is true. " * 200  # well over a thousand tokens


def marks(body: Json) -> list[str]:
    """The beginnings of the texts that carry a mark."""
    blocks = [*(body["system"] if isinstance(body.get("system"), list) else [])]
    for turn in body["messages"]:
        blocks += turn["content"] if isinstance(turn["content"], list) else []
    assert all(set(block) == {"type", "text", "cache_control"} for block in blocks)
    return [block["text"][:10] for block in blocks if block["cache_control"] == {"type": "ephemeral"}]


async def bodies(server: Wire, requests: list[Request], **changes: Any) -> list[list[str]]:
    """What is marked in each request, asked one after the other."""
    async with opened("anthropic", server.url, **changes) as model:
        for request in requests:
            await model.complete(request)
    return [marks(body) for body in server.requests]


async def test_few_shot_turns_that_many_requests_share_are_marked() -> None:
    """From the request on by which several have shared them; the mark is on the turn before the last."""
    shots = (f"example {LONG}", "a good answer", "example two", "another answer")
    async with wire_server() as server:
        marked = await bodies(server, [ask(f"row {n}", before=shots) for n in range(7)])
    assert marked == [[]] * (shared_prefix.SHARED_BY - 1) + [["another an"]] * 4
    last = server.requests[-1]
    assert last["messages"][:3] == server.requests[0]["messages"][:3]
    assert last["messages"][4] == {"role": "user", "content": "row 6"}


async def test_a_long_system_prompt_is_marked() -> None:
    """It is what is shared where the turns differ."""
    async with wire_server() as server:
        marked = await bodies(server, [ask(f"row {n}", system=LONG) for n in range(5)])
    assert marked == [[], [], [], [LONG[:10]], [LONG[:10]]]
    assert server.requests[4]["messages"] == [{"role": "user", "content": "row 4"}]


async def test_what_is_not_worth_a_write_is_not_marked() -> None:
    """Short beginnings, one conversation answered many times, and long last turns."""
    same = ask("again", before=(LONG, "yes"))
    cases = [
        [ask(f"row {n}", system="be kind", before=("short", "shots")) for n in range(6)],
        [same] * 6,
        [ask(f"{n} {LONG}") for n in range(6)],
    ]
    async with wire_server() as server:
        for requests in cases:
            await bodies(server, requests)
    assert [marks(body) for body in server.requests] == [[]] * 18


async def test_while_it_is_written_the_others_go_without_a_mark() -> None:
    """One request pays for the write; when its reply has come, all read."""
    async with wire_server(delay_s=0.02) as server, opened("anthropic", server.url) as model:
        for n in range(3):
            await model.complete(ask(f"row {n}", system=LONG))
        await asyncio.gather(*(model.complete(ask(f"at once {n}", system=LONG)) for n in range(8)))
        await asyncio.gather(*(model.complete(ask(f"later {n}", system=LONG)) for n in range(8)))
    found = [len(marks(body)) for body in server.requests]
    assert (sum(found[3:11]), sum(found[11:])) == (1, 8)


async def test_what_the_model_does_not_cache_is_marked_once() -> None:
    """Where it wants longer beginnings than we think, its usage says so."""
    async with wire_server(faults=lambda n: Fault("no_usage")) as server:
        marked = await bodies(server, [ask(f"row {n}", system=LONG) for n in range(8)])
    assert sum(map(len, marked)) == 1


def test_marks_change_no_key() -> None:
    """They are put on the body on its way out; request, key and the plain body stay as they were."""
    request = ask("row", system=LONG)
    before, plain = request.key("m"), message_body(request, "toy")
    prefixes = shared_prefix.SharedPrefixes()
    for n in range(6):
        prefixes.marked(message_body(ask(f"row {n}", system=LONG), "toy"))
    body, prefix = prefixes.marked(plain)
    assert prefix is None  # the write has not been answered
    assert body is plain and plain["system"] == LONG
    assert request.key("m") == before


def test_cache_writes_are_priced() -> None:
    """By the price for it; else by the factor on the input price. Every Anthropic list price has one."""
    usage = Usage(prompt_tokens=1000, completion_tokens=10, cached_tokens=300, cached_write_tokens=500)
    price = PriceConfig(input=2.0, output=10.0, cached_input=0.2, cached_write=3.0)
    assert cost(usage, "m", price) == pytest.approx((200 * 2 + 300 * 0.2 + 500 * 3 + 10 * 10) / 1e6)
    plain = PriceConfig(input=2.0, output=10.0)
    assert cost(usage, "m", plain) == pytest.approx((500 * 2 + 500 * 2.5 + 10 * 10) / 1e6)
    claude = list_price("claude-haiku-4-5-20251001")
    assert claude is not None and claude.cached_write == pytest.approx(1.25)
    for name, listed in price_list().items():
        if name.startswith("claude"):
            assert listed.cached_write == pytest.approx(1.25 * listed.input), name


async def test_written_tokens_come_through() -> None:
    """Usage and cost of a reply that wrote to the cache, and old replies without the field."""
    from cai.models.anthropic import read_message

    reply = message_reply({"model": "toy", "messages": []}, Answer("hello there"))
    reply["usage"] |= {"input_tokens": 10, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 2000}
    done = read_message(
        orjson.dumps(reply),
        config("anthropic", "http://e", price={"input": 1, "output": 1, "cached_write": 2}),
    )
    assert (done.usage.prompt_tokens, done.usage.cached_write_tokens) == (2010, 2000)
    assert done.cost == pytest.approx((10 + 2 * 2000 + 2) / 1e6)
    old = Usage.model_validate({"prompt_tokens": 3, "completion_tokens": 1, "cached_tokens": 0})
    assert old.cached_write_tokens == 0
