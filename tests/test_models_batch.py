"""Mode batch against loopback batch APIs: the live model's replies, each request paid once, whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest

from cai import serving
from cai.config import ModelConfig, PriceConfig, RunConfig
from cai.errors import BatchError, ConfigError, ProviderError, StoreError
from cai.models import open_model, probe, retry
from cai.models.base import ChatModel, Completion, Request
from cai.models.batch import anthropic, collect, deliver, follow, openai
from cai.rows import Message
from cai.shard.run import run_shard, shard_paths
from tests.batch_wire import BatchWire, batch_server, seeded, separated, unmarked
from tests.batch_worker import prompts, step
from tests.conduct import here
from tests.flows.small import obliging, published, small_run
from tests.wire import Answer, Json, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
Backend = Literal["openai", "anthropic"]
every_backend = pytest.mark.parametrize("backend", ["openai", "anthropic"])
KEY = "sk-very-secret"
ROWS = 12


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keys, and waits in milliseconds."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setattr(retry, "BASE_S", 0.002)
    monkeypatch.setattr(retry, "CAP_S", 0.02)
    monkeypatch.setattr(collect, "LINGER_S", 0.05)
    monkeypatch.setattr(follow, "POLL_FIRST_S", 0.01)
    monkeypatch.setattr(follow, "POLL_CAP_S", 0.02)
    monkeypatch.setattr(follow, "GATHER_S", 0.05)
    monkeypatch.setattr(follow, "SETTLE_S", 0.2)
    yield


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is closed by the clock, only by being full."""
    monkeypatch.setattr(collect, "LINGER_S", 60.0)


@asynccontextmanager
async def opened(
    backend: Backend, server: BatchWire, root: Path, said: list[str] | None = None, **changes: Any
) -> AsyncIterator[ChatModel]:
    """The model in mode batch, closed at the end."""
    endpoint = server.openai_url if backend == "openai" else server.url
    fields = {"backend": backend, "model": "toy", "mode": "batch", "endpoint": endpoint, **changes}
    say = said.append if said is not None else lambda line: None
    model = open_model("toy", ModelConfig.model_validate(fields), folder=root, say=say)
    try:
        yield model
    finally:
        await model.close()


def ask(text: str = "hello there", **fields: Any) -> Request:
    """A request."""
    return Request.model_validate(
        {"messages": (Message(role="user", content=text),), "max_tokens": 32, **fields}
    )


def asks(count: int) -> list[Request]:
    """Distinct requests."""
    return [ask(f"number {index}") for index in range(count)]


def obliged(body: Json) -> Answer:
    """What every template asks for, whatever is marked for a prompt cache."""
    return obliging(unmarked(body))


async def all_of(model: ChatModel, requests: Sequence[Request]) -> list[Completion]:
    """All at once."""
    return list(await asyncio.gather(*map(model.complete, requests)))


def ledger(root: Path) -> list[dict[str, Any]]:
    """The records of the model's ledger."""
    return [orjson.loads(line) for line in (root / "batches" / "toy.jsonl").read_bytes().splitlines()]


@every_backend
async def test_replies_are_those_of_the_live_model(backend: Backend, tmp_path: Path) -> None:
    """Every kind of request gets the same completion under the same identity, at half the cost."""
    price = PriceConfig(input=2.0, output=8.0, cached_input=1.0)
    requests = [ask(), ask(choices=("A", "B")), ask(choices=("A", "B"), method="stated"), ask(stop=("x",))]
    requests += [ask(choices=("A", "B"), method="samples"), ask(schema_={"type": "object"})]
    if backend == "openai":
        requests += [ask(temperature=0.5, top_p=0.9, seed=5), ask(choices=("A", "B"), method="logprobs")]
    async with wire_server(separated) as server:
        endpoint = server.openai_url if backend == "openai" else server.url
        live_config = ModelConfig(backend=backend, model="toy", endpoint=endpoint, price=price)
        live = open_model("toy", live_config)
        expected = [await live.complete(request) for request in requests]
        await live.close()
    async with batch_server(separated) as batches, opened(backend, batches, tmp_path, price=price) as model:
        assert model.identity == live.identity
        await probe(model)
        found = await all_of(model, requests)
    assert any("\u2028" in one.text for one in found)
    assert all(one.cost for one in expected)
    assert [one.cost for one in found] == pytest.approx([one.cost / 2 for one in expected if one.cost])
    assert [one.model_copy(update={"cost": None}) for one in found] == [
        one.model_copy(update={"cost": None}) for one in expected
    ]


@every_backend
async def test_one_batch_under_the_journal_keys(backend: Backend, tmp_path: Path, full: None) -> None:
    """What is asked together goes together, each request once; the ledger holds names and no texts."""
    said: list[str] = []
    requests = asks(ROWS)
    async with (
        batch_server(looks=4) as server,
        opened(backend, server, tmp_path, said, max_concurrency=ROWS) as model,
    ):
        found = await all_of(model, [*requests, *requests])
        keys = [request.key(model.identity) for request in requests]
    (batch,) = server.batches.values()
    assert sorted(batch.requests) == sorted(keys)
    assert len({one.text for one in found}) == ROWS
    assert found[:ROWS] == found[ROWS:]
    assert [one["event"] for one in ledger(tmp_path)] == ["intent", "accepted", "ended"]
    assert ledger(tmp_path)[0]["keys"] == keys
    assert not any(
        text in (tmp_path / "batches" / "toy.jsonl").read_text() for text in (KEY, "number", "reply")
    )
    assert f"toy: batch {batch.id} submitted to {backend}: {ROWS} requests" in said
    progress = [line for line in said if "waiting for batch" in line]
    assert progress[-1] == f"toy: waiting for batch {batch.id}: {ROWS} of {ROWS}"
    assert len(progress) == (4 if backend == "openai" else 2)  # Anthropic counts nothing before the end


@every_backend
async def test_results_that_come_slowly(backend: Backend, tmp_path: Path, full: None) -> None:
    """What rows ask next while results are still coming in waits for the others, and goes into one batch."""
    answered = asyncio.Semaphore(0)

    async with (
        batch_server(held=["rest"]) as server,
        opened(backend, server, tmp_path, max_concurrency=ROWS) as model,
    ):

        async def chain(request: Request) -> Completion:
            first = await model.complete(request)
            answered.release()
            return await model.complete(ask(first.text))

        chains = asyncio.gather(*map(chain, asks(ROWS)))
        for _ in range(ROWS // 2):
            await answered.acquire()
        await asyncio.sleep(0)
        server.rest.set()
        assert len({one.text for one in await chains}) == ROWS
    assert [len(batch.requests) for batch in server.batches.values()] == [ROWS, ROWS]


@every_backend
async def test_what_may_pass_is_asked_again(backend: Backend, tmp_path: Path) -> None:
    """Overloaded, never run and lost requests go into later batches, and all are answered."""
    requests = asks(40)
    async with batch_server(fate=seeded(3)) as server, opened(backend, server, tmp_path) as model:
        found = await all_of(model, requests)
    assert len({one.text for one in found}) == 40
    assert max(server.seen.values()) == 3
    failed = {key for key, count in server.seen.items() if count > 1}
    first, *later = server.batches.values()
    assert 5 < len(failed) < 30
    assert set(first.requests) == set(server.seen)
    assert set().union(*(batch.requests for batch in later)) == failed


@every_backend
@pytest.mark.parametrize(
    ("fate", "kind", "turns"),
    [
        ("invalid", "bad_request", 1),
        ("overloaded", "retries_exhausted", deliver.TRIES),
        ("never", "retries_exhausted", deliver.TRIES),
        ("garbled", "malformed", deliver.TRIES),
    ],
)
async def test_what_does_not_pass_is_the_row_s_own_failure(
    backend: Backend, fate: Any, kind: str, turns: int, tmp_path: Path
) -> None:
    """An error of the live path, after as many batches as it is worth; the others are answered."""
    requests = asks(6)
    bad = requests[2]
    async with batch_server() as server, opened(backend, server, tmp_path) as model:
        lost = bad.key(model.identity)
    async with (
        batch_server(fate=lambda key, turn: fate if key == lost else "ok") as server,
        opened(backend, server, tmp_path) as model,
    ):
        found = await asyncio.gather(*map(model.complete, requests), return_exceptions=True)
    error = found.pop(2)
    assert isinstance(error, ProviderError)
    assert (error.kind, error.fatal) == (kind, False)
    assert "\n" not in str(error)
    assert all(isinstance(one, Completion) for one in found)
    assert server.seen[lost] == turns
    assert set(server.seen.values()) == {1, turns}


@every_backend
async def test_an_expired_batch(backend: Backend, tmp_path: Path) -> None:
    """What was answered before it expired is taken; the rest goes into a new batch."""
    async with (
        batch_server(status=lambda number: "completed" if number else "expired") as server,
        opened(backend, server, tmp_path) as model,
    ):
        found = await all_of(model, asks(8))
    first, second = server.batches.values()
    assert len({one.text for one in found}) == 8
    assert (len(first.requests), len(second.requests)) == (8, 6)


async def test_a_batch_refused_as_a_whole(tmp_path: Path) -> None:
    """One line says why; its requests are free for the next run."""
    async with batch_server(status=lambda number: "completed" if number else "failed") as server:
        async with opened("openai", server, tmp_path) as model:
            with pytest.raises(
                BatchError, match=r"refused batch batch_0.*is queued.*lower max_concurrency"
            ) as caught:
                await all_of(model, asks(3))
        assert "\n" not in str(caught.value)
        async with opened("openai", server, tmp_path) as model:
            assert len(await all_of(model, asks(3))) == 3
    assert len(server.batches) == 2


@every_backend
async def test_limits_of_a_batch(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch has more requests, or bytes of them, than the provider takes."""
    api = openai.OpenAIBatches if backend == "openai" else anthropic.AnthropicBatches
    monkeypatch.setattr(api, "most", 5)
    async with batch_server() as server, opened(backend, server, tmp_path) as model:
        await all_of(model, asks(12))
    assert sorted(len(batch.requests) for batch in server.batches.values()) == [2, 5, 5]
    monkeypatch.setattr(api, "most_bytes", 500)
    async with batch_server() as server, opened(backend, server, tmp_path / "b") as model:
        await all_of(model, asks(12))
    sizes = [len(orjson.dumps(list(batch.requests.items()))) for batch in server.batches.values()]
    assert len(sizes) > 3
    assert max(sizes) < 500


@every_backend
@pytest.mark.parametrize(
    "faults",
    [
        {"create": [429, 529], "upload": [503], "status": [500, "lost"]},
        {"create": ["lost"]},
        {"create": [500, "lost"], "list": [500]},
        {"results": ["cut", "lost", 503]},
    ],
    ids=["refused", "accepted", "unclear", "results"],
)
async def test_calls_that_fail_on_the_way(backend: Backend, faults: Any, tmp_path: Path) -> None:
    """Whatever happens to a call to the batch API, the batch is submitted once and read whole."""
    async with batch_server(faults=faults) as server, opened(backend, server, tmp_path) as model:
        found = await all_of(model, asks(30))
    assert len({one.text for one in found}) == 30
    assert len(server.batches) == 1
    assert set(server.seen.values()) == {1}


@every_backend
async def test_refusals_of_the_submission(backend: Backend, tmp_path: Path) -> None:
    """A wrong key stops the run as it does live; anything else is one line with the way on. No key is shown."""
    async with batch_server(key="another") as server, opened(backend, server, tmp_path / "a") as model:
        with pytest.raises(ProviderError, match="API_KEY") as caught:
            await all_of(model, asks(2))
        assert caught.value.kind == "auth"
        assert KEY not in str(caught.value)
    async with (
        batch_server(faults={"create": [400]}) as server,
        opened(backend, server, tmp_path / "b") as model,
    ):
        with pytest.raises(BatchError, match=r"no such model in batches.*nothing is paid twice"):
            await all_of(model, asks(2))


@every_backend
async def test_a_batch_that_the_provider_has_lost(backend: Backend, tmp_path: Path) -> None:
    """It is not submitted again behind the user's back."""
    async with batch_server(held=["end"]) as server:
        async with opened(backend, server, tmp_path) as model:
            waiting = asyncio.gather(*map(model.complete, asks(3)))
            await server.looked.wait()
            waiting.cancel()
        server.batches.clear()
        async with opened(backend, server, tmp_path) as model:
            with pytest.raises(BatchError, match=r"toy\.jsonl is not known there.*move the file away"):
                await all_of(model, asks(3))
    assert server.calls["create"] == 1


@every_backend
async def test_an_interrupted_wait(backend: Backend, tmp_path: Path) -> None:
    """The batch stays at the provider, which is said; the next run collects it, and asks only what is new."""
    said: list[str] = []
    requests = asks(9)
    async with batch_server(held=["end"]) as server:
        async with opened(backend, server, tmp_path, said) as model:
            waiting = asyncio.gather(*map(model.complete, requests[:6]))
            await server.looked.wait()
            waiting.cancel()
        (first,) = server.batches
        assert said[-1] == (
            f"toy: batch {first} goes on at {backend}; run the same command again to collect its results"
        )
        server.end.set()
        async with opened(backend, server, tmp_path, said) as model:
            some = await all_of(model, requests[4:])
            more = await all_of(model, requests[:4])  # the results are read once more
    assert len({one.text for one in (*some, *more)}) == 9
    assert [len(batch.requests) for batch in server.batches.values()] == [6, 3]


@every_backend
async def test_another_s_batch_is_not_taken(backend: Backend, tmp_path: Path) -> None:
    """A batch of the same size from elsewhere, made while it was unknown whether ours was accepted."""
    async with batch_server(faults={"create": [500] * 20}) as server:
        async with opened(backend, server, tmp_path / "ours") as model:
            with pytest.raises(BatchError):
                await all_of(model, asks(3))
        server_url = server
    async with batch_server() as server_url:
        async with opened(backend, server_url, tmp_path / "theirs") as other:
            await all_of(other, [ask(f"theirs {index}") for index in range(3)])
        async with opened(backend, server_url, tmp_path / "ours") as model:
            found = await all_of(model, asks(3))
    assert len({one.text for one in found}) == 3
    assert len(server_url.batches) == 2
    assert [one["event"] for one in ledger(tmp_path / "ours")] == [
        "intent", "ended", "intent", "accepted", "ended",
    ]  # fmt: skip


async def test_the_ledger_on_disk(tmp_path: Path) -> None:
    """A torn last line is cut off, any other damage is an error that says what it would cost; one holder at a time."""
    path = tmp_path / "batches" / "toy.jsonl"
    async with batch_server() as server:
        async with opened("openai", server, tmp_path) as model:
            first = await all_of(model, asks(3))
            async with opened("openai", server, tmp_path) as second:
                with pytest.raises(StoreError, match=rf"in use by another run \(pid {os.getpid()}"):
                    await second.complete(ask())
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"event":"accep')
        async with opened("openai", server, tmp_path) as model:
            assert await all_of(model, asks(3)) == first
        assert len(server.batches) == 1
        assert path.read_bytes() == whole
        path.write_bytes(whole.replace(b'"accepted"', b'"acc"'))
        async with opened("openai", server, tmp_path) as model:
            with pytest.raises(StoreError, match=r"toy\.jsonl:2: .*paid again"):
                await model.complete(ask())


async def worker(root: Path, backend: Backend, mode: str, url: str) -> asyncio.subprocess.Process:
    """One run of the shard in a process of its own."""
    script = Path(__file__).with_name("batch_worker.py")
    environment = os.environ | {"PYTHONPATH": str(script.parents[1])}
    return await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(root), backend, mode, url, str(ROWS), env=environment
    )


@every_backend
@pytest.mark.parametrize("moment", ["answer", "end"])
async def test_kill_9_around_the_submission(backend: Backend, moment: str, tmp_path: Path) -> None:
    """Killed before it hears that its batch is accepted, or while it waits: one submission, the live run's bytes."""
    async with wire_server() as live:
        url = live.openai_url if backend == "openai" else live.url
        assert await (await worker(tmp_path / "live", backend, "live", url)).wait() == 0
    root = tmp_path / "batch"
    async with batch_server(held=[moment]) as server:
        url = server.openai_url if backend == "openai" else server.url
        process = await worker(root, backend, "batch", url)
        await (server.created if moment == "answer" else server.looked).wait()
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        assert [one["event"] for one in ledger(root)] == ["intent", "accepted"][: 1 + (moment == "end")]
        server.answer.set()
        server.end.set()
        assert await (await worker(root, backend, "batch", url)).wait() == 0
    assert [len(batch.requests) for batch in server.batches.values()] == [
        ROWS,
        ROWS,
    ]  # one for each call of the chain
    assert set(server.seen.values()) == {1}
    assert (
        shard_paths(root, "batch", 0).rows.read_bytes()
        == shard_paths(tmp_path / "live", "batch", 0).rows.read_bytes()
    )


@every_backend
async def test_a_change_of_mode_keeps_the_journal(backend: Backend, tmp_path: Path) -> None:
    """What batches answered is replayed live, without a call."""
    arguments: dict[str, Any] = {"stage": "batch", "shard": 0, "root": tmp_path, "step": step, "limit": ROWS}
    async with batch_server(fate=seeded(1)) as server, opened(backend, server, tmp_path) as model:
        report = await run_shard(rows=prompts(ROWS), model=model, inputs_digest="d", **arguments)
    assert (report.rows_out, report.calls_made) == (ROWS, 2 * ROWS)
    async with wire_server() as live:
        url = live.openai_url if backend == "openai" else live.url
        again = open_model("toy", ModelConfig(backend=backend, model="toy", endpoint=url))
        second = await run_shard(rows=prompts(ROWS), model=again, inputs_digest="e", **arguments)
        await again.close()
    assert (second.calls_made, second.calls_replayed, live.calls) == (0, 2 * ROWS, 0)
    assert second.rows.sha256 == report.rows.sha256


@every_backend
async def test_replies_that_the_journal_lost(backend: Backend, tmp_path: Path) -> None:
    """A power cut may take the journal's last second: the replies are read again at the provider, not paid again."""
    arguments: dict[str, Any] = {"stage": "batch", "shard": 0, "root": tmp_path, "step": step, "limit": ROWS}
    reports = []
    async with batch_server() as server:
        for _ in range(2):
            async with opened(backend, server, tmp_path) as model:
                reports.append(
                    await run_shard(rows=prompts(ROWS), model=model, inputs_digest="d", **arguments)
                )
            shard_paths(tmp_path, "batch", 0).journal.unlink()
            shard_paths(tmp_path, "batch", 0).manifest.unlink()
    assert [report.calls_made for report in reports] == [2 * ROWS] * 2
    assert reports[0].rows.sha256 == reports[1].rows.sha256
    assert set(server.seen.values()) == {1}


@every_backend
async def test_shards_share_a_batch(backend: Backend, tmp_path: Path, full: None) -> None:
    """Eight shards side by side make one batch for each call of their chains, from one ledger."""
    shards, rows = 8, 3
    async with batch_server() as server:
        endpoint = server.openai_url if backend == "openai" else server.url
        fields = {"backend": backend, "model": "toy", "mode": "batch", "endpoint": endpoint}
        config = small_run(tmp_path, "", models={"toy": {**fields, "max_concurrency": shards * rows}})

        async def one(shard: int) -> int:
            async with serving.opened(config, "toy", {}) as model:
                report = await run_shard(
                    stage="batch", shard=shard, root=config.root, rows=prompts(shards * rows)[shard::shards],
                    step=step, model=model, inputs_digest="d", limit=rows,
                )  # fmt: skip
            return report.rows_out

        assert await asyncio.gather(*map(one, range(shards))) == [rows] * shards
    assert [len(batch.requests) for batch in server.batches.values()] == [shards * rows] * 2


@every_backend
async def test_a_whole_run(backend: Backend, tmp_path: Path) -> None:
    """The pipeline in batches, with failures that pass, publishes what it publishes live."""
    sampling = {"max_tokens": 64, "temperature": None, "top_p": None}
    roles: dict[str, Any] = {
        "policy": {"model": "toy", "n": 2, "sampling": sampling},
        "critic": {"model": "toy", "rounds": 2, "sampling": sampling},
        "judge": {
            "model": "toy",
            "principles": 2,
            "threshold": 0.6,
            "sampling": sampling,
            "method": "stated",
        },
    }
    found = []
    async with wire_server(obliged) as live, batch_server(obliged, seeded(5)) as batches:
        for mode, server in (("live", live), ("batch", batches)):
            url = server.openai_url if backend == "openai" else server.url
            toy = {"backend": backend, "model": "toy", "mode": mode, "endpoint": url}
            (tmp_path / mode).mkdir()
            config = small_run(tmp_path / mode, "", models={"toy": toy}, **roles)
            await here.pipeline(config)
            found.append(published(config.root))
    assert found[0] == found[1]
    assert any(name.startswith("dataset") and rows for name, rows in found[0].items())
    assert max(batches.seen.values()) <= 3


async def test_a_model_without_a_run(tmp_path: Path) -> None:
    """It has an identity, and can be asked nothing."""
    async with batch_server() as server:
        fields = {"backend": "openai", "model": "toy", "mode": "batch", "endpoint": server.openai_url}
        model = open_model("toy", ModelConfig.model_validate(fields))
        assert model.identity == "openai:toy"
        with pytest.raises(ConfigError, match=r"models\.toy: mode batch needs a run"):
            await model.complete(ask())
        await model.close()


def test_the_config_of_a_batch() -> None:
    """Many in flight unless the config says otherwise; limits of live calls are refused."""
    fields = {"backend": "openai", "model": "toy", "mode": "batch"}
    assert ModelConfig.model_validate(fields).max_concurrency == 10_000
    assert ModelConfig.model_validate({**fields, "max_concurrency": 7}).max_concurrency == 7
    assert ModelConfig.model_validate({**fields, "mode": "live"}).max_concurrency == 64
    inputs = {
        "name": "r",
        "constitution": "c.yaml",
        "prompts": [{"path": "p.jsonl"}],
        "models": {"toy": fields},
    }
    roles = {role: {"model": "toy"} for role in ("policy", "critic", "judge")}
    with pytest.raises(ValueError, match=r"models\.toy\.mode: one process collects.*leave out 'ray'"):
        RunConfig.model_validate({**inputs, **roles, "ray": {"workers": 2}})
    with pytest.raises(ValueError, match="'limits' are of live calls"):
        ModelConfig.model_validate({**fields, "limits": {"requests_per_minute": 5}})
