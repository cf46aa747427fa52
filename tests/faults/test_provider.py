"""Providers that fail: what may pass costs no row, what lasts stops the run early, a dead endpoint burns nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai.conduct import dataset
from cai.conduct.work import HERE
from cai.errors import ProviderError
from cai.models import retry
from tests.conduct import here
from tests.faults import provider
from tests.faults.provider import BACKENDS, KINDS, Backend, config_of
from tests.faults.scene import LIMIT, check
from tests.flows.small import obliging, published
from tests.wire import Fault, wire_server

pytestmark = pytest.mark.anyio
every_backend = pytest.mark.parametrize("backend", BACKENDS)
FAULTS = sum(len(kind.faults) for kind in KINDS.values())
PROMPTS = 300


@pytest.fixture(autouse=True)
def with_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for the hosted protocols."""
    for name in provider.KEYS:
        monkeypatch.setenv(name, "sk-loopback")


@pytest.mark.slow
@every_backend
async def test_a_run_that_meets_every_fault(backend: Backend, tmp_path: Path) -> None:
    """One of each, in one run: the rows are those of an undisturbed one, and each fault costs one call."""
    result = check(await provider.disturbed(list(KINDS.values()), tmp_path, 11, FAULTS, [backend]))
    scored = sum(len(kind.faults) for kind in KINDS.values() if kind.scored)
    good = sum(len(kind.faults) for kind in KINDS.values() if kind.passes)
    assert result.injected == FAULTS - (scored if backend == "anthropic" else 0)
    # each was asked again, but for a question whether the endpoint answers that another reply has settled
    assert len(result.recover_s) >= result.injected - good - 2 and result.median_s < 60


@pytest.mark.slow
async def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    """It is waited for, and no row is lost."""
    result = check(await provider.outage(tmp_path, 1, 2))
    assert result.injected == 2


@pytest.mark.slow
async def test_a_dead_endpoint_stops_the_run(tmp_path: Path) -> None:
    """After tens of calls, not thousands, and in one line; nothing is dropped, and the same command goes on."""
    dead_from: int | None = 100
    async with wire_server(
        obliging, lambda n: Fault(status=503) if dead_from is not None and n >= dead_from else None
    ) as server:
        config = config_of(tmp_path, server, "vllm", deadline_s=2)
        rows = [{"id": f"p{n}", "prompt": f"Tell me about {n}."} for n in range(PROMPTS)]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ProviderError) as caught:
            await dataset.generate(config, HERE)
        assert caught.value.kind == "broken" and caught.value.fatal
        text = str(caught.value)
        assert "attempts in a row have failed" in text and "HTTP 503" in text and "\n" not in text
        assert "run the same command again" in text
        assert server.calls <= 100 + LIMIT + 40
        assert not [name for name in published(config.root) if name.startswith("generate/")]
        dead_from, before = None, server.calls
        await dataset.generate(config, HERE)
        assert server.calls - before == 2 * PROMPTS - 100  # all that were answered before are kept
        found = published(config.root)
        whole = config.model_copy(update={"name": "whole"})
        await dataset.generate(whole, HERE)
    assert found == published(whole.root)
    assert sum(raw.count(b"\n") for name, raw in found.items() if "generate/rows" in name) == 2 * PROMPTS
    assert not any(raw for name, raw in found.items() if "generate/drops" in name)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(status=401), "auth", "check the key"),
        (Fault(status=429, code="insufficient_quota"), "auth", "no credit left"),
        (Fault(status=404), "not_found", "check 'model' and 'endpoint'"),
        (Fault(status=307, headers={"Location": "http://elsewhere/"}), "not_found", "it redirects to"),
    ],
)
async def test_what_cannot_pass_stops_the_run_at_once(
    fault: Fault, kind: str, words: str, tmp_path: Path
) -> None:
    """With the calls that each shard had on their way, and the cause in one line."""
    async with wire_server(obliging, lambda n: fault) as server:
        config = config_of(tmp_path, server, "openai")
        with pytest.raises(ProviderError, match=words) as caught:
            await here.judge(config)
    assert caught.value.kind == kind and "\n" not in str(caught.value)
    assert server.calls <= LIMIT * config.shards


async def test_rows_that_no_endpoint_answers_are_dropped_with_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside good ones, after a bounded number of attempts each; the run comes to its end."""
    monkeypatch.setattr(retry, "BASE_S", 0.002)
    poison = {
        "Tell me about 3 {principle}.": Fault(status=500),
        "Tell me about 5 {principle}.": Fault("truncated"),
    }

    def faults(number: int) -> Fault | None:
        return poison.get(server.requests[number]["messages"][-1]["content"])

    async with wire_server(obliging, faults) as server:
        config = config_of(tmp_path, server, "vllm")
        await dataset.generate(config, HERE)
    asked = [body["messages"][-1]["content"] for body in server.requests]
    attempts = (retry.ATTEMPTS, retry.FEW_ATTEMPTS)  # and one more where the endpoint was asked meanwhile
    for text, most in zip(poison, attempts, strict=True):
        assert 2 * most <= asked.count(text) <= 2 * (most + 1)
    drops = [json.loads(row) for name, raw in published(config.root).items() if "generate/drops" in name
             for row in raw.splitlines()]  # fmt: skip
    assert sorted((drop["id"], drop["reason"]) for drop in drops) == [
        ("p3/r0", "retries_exhausted"),
        ("p3/r1", "retries_exhausted"),
        ("p5/r0", "malformed"),
        ("p5/r1", "malformed"),
    ]
