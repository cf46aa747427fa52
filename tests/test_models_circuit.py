"""The circuit of an endpoint: when it opens, who waits, what closes it, and what a dead endpoint costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from cai.config import ModelConfig
from cai.errors import ProviderError
from cai.models import circuit, open_model, retry
from cai.models.base import ChatModel, Request
from cai.rows import Message
from tests.wire import Fault, Wire, wire_server

pytestmark = pytest.mark.anyio
DOWN = Fault(status=503, message="the engine is dead")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waits of milliseconds."""
    monkeypatch.setattr(retry, "BASE_S", 0.002)
    monkeypatch.setattr(circuit, "PAUSE_S", 0.01)
    monkeypatch.setattr(circuit, "PAUSE_CAP_S", 0.05)
    yield


def model_of(server: Wire, **changes: object) -> ChatModel:
    fields = {"backend": "vllm", "model": "toy", "endpoint": server.url, "max_concurrency": 8}
    return open_model("toy", ModelConfig.model_validate(fields | changes))


def say(text: str) -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=8)


async def many(model: ChatModel, names: list[str]) -> list[str]:
    """What came of these calls, made at once: a text, or the kind of the error."""

    async def one(name: str) -> str:
        try:
            return (await model.complete(say(name))).text
        except ProviderError as error:
            return error.kind

    try:
        return await asyncio.gather(*map(one, names))
    finally:
        await model.close()


def probes(server: Wire) -> int:
    """How many requests asked for nothing but a sign of life."""
    return sum(body["messages"][-1]["content"] == "Hi" for body in server.requests)


NAMES = [f"row {n}" for n in range(40)]


@pytest.mark.parametrize(
    "fault", [DOWN, Fault("reset"), Fault("html"), Fault(status=529)], ids=lambda f: f.kind or f.status
)
async def test_an_outage_costs_time_only(fault: Fault) -> None:
    """Whatever it looks like: all calls are answered when the endpoint is back, and few were sent meanwhile."""
    back = 0.0

    def faults(number: int) -> Fault | None:
        nonlocal back
        if number == 5:
            back = time.monotonic() + 0.4
        return fault if number >= 5 and time.monotonic() < back else None

    async with wire_server(faults=faults, delay_s=0.001) as server:
        said = await many(model_of(server), NAMES)
    assert len(set(said)) == 40 and all(text.startswith("reply") for text in said)
    failed = server.calls - 40 - 1  # and the one probe that was answered
    assert failed <= 8 + 30 and probes(server) >= 1


@pytest.mark.slow
async def test_a_dead_endpoint_costs_tens_of_calls() -> None:
    """Where it does not come back in deadline_s, every call fails with the same fatal kind, and says what was seen."""
    async with wire_server(faults=lambda n: DOWN if n >= 5 else None, delay_s=0.001) as server:
        model = model_of(server, deadline_s=1)
        said = await many(model, [f"row {n}" for n in range(300)])
        broken = said.count("broken")  # a slow machine lets those under way run into their own deadline first
        assert broken >= 295 - 8 and broken + said.count("retries_exhausted") == 295
        assert server.calls <= 5 + 8 + 60
        with pytest.raises(
            ProviderError, match=r"\d+ attempts in a row have failed within .*: HTTP 503: the engine"
        ) as e:
            lost = model_of(server, deadline_s=1.5)
            try:
                await asyncio.gather(*(lost.complete(say(str(n))) for n in range(3)))
            finally:
                await asyncio.sleep(0.1)
                await lost.close()
        assert e.value.fatal and "\n" not in str(e.value)


async def test_a_row_that_cannot_be_answered_is_no_outage() -> None:
    """It is given up by itself, among others and as the last one."""

    def faults(number: int) -> Fault | None:
        return DOWN if server.requests[number]["messages"][-1]["content"] == "row 7" else None

    async with wire_server(faults=faults) as server:
        said = await many(model_of(server), NAMES)
        assert said.count("retries_exhausted") == 1 and said.index("retries_exhausted") == 7
        assert probes(server) == 0 and server.calls == 39 + retry.ATTEMPTS


async def test_many_rows_that_cannot_be_answered() -> None:
    """The endpoint answers something else, so it is the rows: they are given up after their attempts."""

    def faults(number: int) -> Fault | None:
        return None if server.requests[number]["messages"][-1]["content"] == "Hi" else DOWN

    async with wire_server(faults=faults) as server:
        said = await many(model_of(server, deadline_s=30), NAMES)
    assert said == ["retries_exhausted"] * 40
    assert 1 <= probes(server) <= 8
    # one more for each that had used up its attempts when the endpoint was asked
    assert 40 * retry.ATTEMPTS <= server.calls - probes(server) <= 40 * (retry.ATTEMPTS + 1)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=400), "bad_request"),
        (Fault(status=400, message="prompt is too long"), "context_length"),
        (Fault("refusal"), "I cannot help with that."),
    ],
)
async def test_what_is_the_request_s_own_never_opens_it(fault: Fault, kind: str) -> None:
    """However many of them there are."""
    async with wire_server(faults=lambda n: fault) as server:
        assert await many(model_of(server), NAMES) == [kind] * 40
    assert server.calls == 40


async def test_429s_never_open_it() -> None:
    """They have their own pace; but a wait that is longer than anybody has stops the run at once."""
    async with wire_server(faults=[Fault(status=429, headers={"Retry-After": "0"})] * 60) as server:
        said = await many(model_of(server), NAMES)
    assert len(set(said)) == 40 and probes(server) == 0
    spent = Fault(status=429, headers={"Retry-After": "3600"}, message="come back tomorrow")
    async with wire_server(faults=lambda n: spent) as server:
        said = await many(model_of(server, deadline_s=20), NAMES)
        assert "broken" in said and server.calls <= 20


async def test_a_server_that_restarts_is_waited_for() -> None:
    """Once somebody has listened there; else it is a wrong endpoint, and said so at once."""
    async with wire_server() as server:
        port = int(server.url.rpartition(":")[2])
        model = model_of(server)
        await model.complete(say("there"))
    calls = asyncio.create_task(many(model, NAMES))
    await asyncio.sleep(0.5)
    assert not calls.done()
    async with wire_server(port=port) as again:
        said = await calls
    assert len(set(said)) == 40 and again.calls == 41
    begun = time.monotonic()
    assert set(await many(model_of(server, deadline_s=400), NAMES)) == {"unreachable"}
    assert time.monotonic() - begun < 60


async def test_a_server_of_the_run_s_own_is_not_waited_for() -> None:
    """Its end comes up at once, so that the run can start it again."""
    async with wire_server() as server:
        toy = {"backend": "vllm", "model": "toy", "managed": {}, "max_concurrency": 8, "deadline_s": 400}
        model = open_model("toy", ModelConfig.model_validate(toy), endpoint=server.url)
        await model.complete(say("there"))
    begun = time.monotonic()
    assert set(await many(model, NAMES)) == {"unreachable"}
    assert time.monotonic() - begun < 60


async def test_nobody_waits_on_after_an_interruption() -> None:
    """Calls that are cancelled take the question with them, and the next call asks again."""
    up = False
    async with wire_server(faults=lambda n: None if up else DOWN) as server:
        model = model_of(server)
        calls = [asyncio.create_task(model.complete(say(name))) for name in NAMES]
        while not probes(server):  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.005)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.05)
        before = server.calls
        await asyncio.sleep(0.2)
        assert server.calls == before
        up = True
        assert (await model.complete(say("again"))).text.startswith("reply")
        await model.close()
