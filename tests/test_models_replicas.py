"""Several servers as one model: load goes where there is least, a server that dies loses no row and comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cai.config import ModelConfig
from cai.errors import ConfigError, ProviderError
from cai.models import circuit, open_model, replicas, retry
from cai.models.base import ChatModel, Request
from cai.preflight import preflight
from cai.rows import Message
from tests.conduct.here import judge
from tests.flows.small import obliging, published, small_run
from tests.wire import Fault, wire_server

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that left is asked again soon, and a failed call waits little."""
    monkeypatch.setattr(replicas, "PROBE_FIRST_S", 0.02)
    monkeypatch.setattr(replicas, "PROBE_CAP_S", 0.02)
    monkeypatch.setattr(retry, "BASE_S", 0.01)


def model_of(*urls: str, concurrency: int = 12) -> ModelConfig:
    return ModelConfig(
        backend="vllm", model="toy", endpoints=urls, max_concurrency=concurrency, timeout_s=5, deadline_s=20
    )


def say(text: str) -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=8)


@pytest.mark.slow
async def test_the_load_is_balanced_and_bounded() -> None:
    """A slow server gets few calls; in all no more than max_concurrency are in flight."""
    async with wire_server() as one, wire_server() as two, wire_server(delay_s=1.5) as slow:
        model = open_model("toy", model_of(one.url, two.url, slow.url))
        assert model.identity == "vllm:toy"
        said = await asyncio.gather(*(model.complete(say(str(n))) for n in range(300)))
        await model.close()
    assert len({reply.text for reply in said}) == 300
    assert one.peak + two.peak + slow.peak <= 15  # 12, and what rose on one while it fell on another
    assert one.calls + two.calls + slow.calls == 300
    assert slow.calls < 0.5 * min(one.calls, two.calls)
    assert abs(one.calls - two.calls) < 60


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(kind="reset"), Fault(kind="html")])
async def test_a_failing_server_leaves_and_returns(fault: Fault) -> None:
    """Its calls move on at once; it gets no call while it is out, and gets them again when it has recovered."""
    broken = True
    async with (
        wire_server() as one,
        wire_server() as two,
        wire_server(faults=lambda n: fault if broken else None) as sick,
    ):
        model = open_model("toy", model_of(one.url, two.url, sick.url, concurrency=3))
        said = [await model.complete(say(str(n))) for n in range(60)]
        assert len({reply.text for reply in said}) == 60
        # as many as it takes to leave, and one for each return before it has recovered
        assert one.calls + two.calls == 60 and replicas.FAILURES <= sick.calls < 40
        broken = False
        await asyncio.sleep(0.1)
        before = sick.calls
        await asyncio.gather(*(model.complete(say(f"again {n}")) for n in range(60)))
        assert sick.calls - before > 10
        await model.close()


async def test_the_request_s_own_failure_stays_where_it_is() -> None:
    """A request that no server will take is not tried on each of them."""
    too_long = Fault(status=400, message="This model's maximum context length is 8 tokens.")
    async with wire_server(faults=[too_long]) as one, wire_server() as two:
        model = open_model("toy", model_of(one.url, two.url))
        with pytest.raises(ProviderError) as caught:
            await model.complete(say("far too long"))
        assert caught.value.kind == "context_length" and (one.calls, two.calls) == (1, 0)
        await model.close()


async def test_when_all_are_gone_the_error_is_the_usual_one() -> None:
    """It names the servers, and is fatal; so is the one of a preflight, which asks each of them."""
    model = open_model("toy", model_of("http://127.0.0.1:9", "http://127.0.0.1:19"))
    with pytest.raises(ProviderError, match=r"none of 2 replicas answers") as caught:
        await model.complete(say("anybody?"))
    assert caught.value.kind == "unreachable" and caught.value.fatal
    assert "toy at http://127.0.0.1:9, http://127.0.0.1:19:" in str(caught.value)
    await model.close()


async def test_preflight_asks_every_server(tmp_path: Path) -> None:
    """The one that is not there, or has another model, is named before anything is paid."""
    async with wire_server() as good, wire_server(models=["other"]) as wrong:
        for bad, words in (
            (wrong.url, "it serves other"),
            ("http://127.0.0.1:9", "check that the server runs"),
        ):
            models = {"toy": model_of(good.url, bad).model_dump()}
            config = small_run(tmp_path, good.url, models=models)
            with pytest.raises(ConfigError, match=words) as caught:
                await preflight(config)
            assert f"models.toy: toy at {bad}:" in str(caught.value)
        await preflight(small_run(tmp_path, good.url, models={"toy": model_of(good.url).model_dump()}))
    with pytest.raises(ValueError, match="twice"):
        model_of("http://a", "http://a")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own end is the limit."""
    while not condition():  # noqa: ASYNC110 - nothing to wait on
        await asyncio.sleep(0.002)


async def test_a_run_loses_no_row_when_a_server_dies_and_comes_back(tmp_path: Path) -> None:
    """The dataset is the one of a single server, whole and nothing twice; the restarted server takes part again."""
    async with wire_server(reply=obliging) as alone:
        single = small_run(tmp_path, alone.url, name="alone")
        await judge(single)
    async with wire_server(reply=obliging, delay_s=0.02) as one, contextlib.AsyncExitStack() as first:
        two = await first.enter_async_context(wire_server(reply=obliging, delay_s=0.02))
        models = {"toy": model_of(one.url, two.url, concurrency=8).model_dump()}
        config = small_run(tmp_path, one.url, models=models)
        run = asyncio.create_task(judge(config))
        await until(lambda: two.calls >= 20)
        await first.aclose()
        left = one.calls
        await until(lambda: one.calls >= left + 40)
        port = int(two.url.rpartition(":")[2])
        async with wire_server(reply=obliging, delay_s=0.02, port=port) as back:
            await run
            assert back.calls > 0
    assert published(config.root) == published(single.root)
    assert left + 40 <= one.calls < alone.calls


async def test_when_all_are_gone_for_a_while_they_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they have answered; no call is lost, and none is sent twice."""
    monkeypatch.setattr(circuit, "PAUSE_S", 0.02)
    monkeypatch.setattr(circuit, "PAUSE_CAP_S", 0.1)
    async with wire_server() as one, wire_server() as two:
        ports = [int(server.url.rpartition(":")[2]) for server in (one, two)]
        model = open_model("toy", model_of(one.url, two.url))
        await model.complete(say("there"))
    calls = asyncio.create_task(together(model, 40))
    await asyncio.sleep(0.5)
    assert not calls.done()
    async with wire_server(port=ports[0]) as one, wire_server(port=ports[1]) as two:
        assert len(set(await calls)) == 40
        assert one.calls + two.calls == 41  # with the question whether anybody is there
    await model.close()


async def together(model: ChatModel, count: int) -> list[str]:
    """What so many calls at once were answered."""
    return [
        reply.text for reply in await asyncio.gather(*(model.complete(say(str(n))) for n in range(count)))
    ]
