"""Budgets: a cap stops a run in order, holds to within what is in flight, and changes no row."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai.accounts.budget import Spending, spent_line, spent_now
from cai.accounts.spending import FILE, SIZE, Counters, read_spent, shared
from cai.config import BudgetConfig, ModelConfig, RunConfig
from cai.config_file import load_config
from cai.errors import BudgetError, ConfigError, StoreError
from cai.models import open_model
from cai.models.batch import collect, follow
from cai.plan.make import make_plan
from cai.plan.table import print_plan
from cai.report.status import run_status
from cai.shard.run import run_shard
from tests.batch_wire import batch_server
from tests.batch_worker import prompts, step
from tests.conduct.here import pipeline
from tests.faults.budget import CALLS, KILLED, MODEL, journalled
from tests.faults.scene import LIMIT, Scenario, check, damage
from tests.flows.small import obliging, published, small_config, small_run
from tests.wire import Fault, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def budgeted(folder: Path, url: str, **caps: Any) -> RunConfig:
    """The small run with a price and a budget."""
    return small_run(folder, url, models={"toy": MODEL | {"endpoint": url}}, budget=caps or None)


@pytest.mark.parametrize(("scenario", "times"), [(CALLS, 1), (KILLED, 1)])
async def test_a_capped_run(scenario: Scenario, times: int, tmp_path: Path) -> None:
    """Real processes that stop at a cap, one of them killed before, end with the rows of an undisturbed run."""
    assert check(await scenario(tmp_path, 7, times)).injected >= times


@pytest.mark.parametrize("cap", ["max_calls", "max_tokens", "max_cost"])
async def test_each_cap_stops_all_shards_and_lets_go_on(cap: str, tmp_path: Path) -> None:
    """What is in flight ends and is kept, nothing else is sent; with more to spend the run ends as if undisturbed."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "capped").mkdir()
    async with wire_server(obliging) as server:
        whole = budgeted(tmp_path / "whole", server.url)
        await pipeline(whole)
        calls, used = server.calls, journalled(whole.root)
    needed = {"max_calls": calls, "max_tokens": used.tokens, "max_cost": used.cost}[cap]
    faults = [Fault(status=429, headers={"Retry-After": "0"}) if n % 9 == 4 else None for n in range(200)]
    async with wire_server(obliging, faults=faults, delay_s=0.002) as server:
        for share in (0.2, 0.6):
            most = needed * share if cap == "max_cost" else int(needed * share)
            config = budgeted(tmp_path / "capped", server.url, **{cap: most})
            with pytest.raises(BudgetError, match=rf"budget\.{cap} is reached: .* rows were done"):
                await pipeline(config)
            assert server.in_flight == 0
            spent, now = read_spent(config.root), journalled(config.root)
            assert spent is not None and (spent.calls, spent.tokens, spent.lost) == (
                server.calls,
                now.tokens,
                0,
            )
            assert spent.cost == pytest.approx(now.cost)
            over = {
                "max_calls": server.calls - most,
                "max_tokens": now.tokens - most - LIMIT * now.most_tokens,
                "max_cost": now.cost - most - LIMIT * now.most_cost,
            }[cap]
            assert over <= 0
        await pipeline(budgeted(tmp_path / "capped", server.url, **{cap: 100 * needed}))
        assert server.calls == calls + sum(fault is not None for fault in faults[: server.calls])
    assert damage(whole.root, config.root)[1:] == (0, 0)


async def test_the_budget_makes_no_other_run(tmp_path: Path) -> None:
    """Another budget asks nothing, publishes nothing again, and is the one that the run's folder tells."""
    async with wire_server(obliging) as server:
        await pipeline(budgeted(tmp_path, server.url))
        config = budgeted(tmp_path, server.url, max_calls=10_000)
        calls, rows = server.calls, published(config.root)
        coverage = (config.root / "coverage.json").stat().st_ino
        await pipeline(config)
        assert (server.calls, published(config.root)) == (calls, rows)
    assert (
        config.root / "coverage.json"
    ).stat().st_ino == coverage  # a run that is not finished removes it first
    status = run_status(config.root)
    assert status["config"]["budget"]["max_calls"] == 10_000
    assert spent_now(config) == f"{calls} of 10,000 calls"


async def test_replies_that_do_not_count_their_tokens(tmp_path: Path) -> None:
    """They are counted by their length, with the price that the config states, and it is said."""
    async with wire_server(obliging, faults=lambda n: Fault(kind="no_usage")) as server:
        config = budgeted(tmp_path, server.url, max_tokens=4000, max_cost=9.0)
        with pytest.raises(BudgetError, match="max_tokens is reached"):
            await pipeline(config)
        spent = read_spent(config.root)
    assert spent is not None and spent.estimated == spent.replies == server.calls
    assert spent.cost == pytest.approx(spent.tokens * 100e-6, rel=0.3)
    assert f"tokens of {server.calls} replies guessed" in spent_now(config)


COUNT = """
import sys
from pathlib import Path
from cai.accounts.budget import Spending
from cai.config import BudgetConfig, ModelConfig
from cai.errors import BudgetError
from cai.models.base import Completion, Request, Usage
from cai.rows import Message
from cai.accounts.spending import Counters
counters = Counters(Path(sys.argv[1]))
model = ModelConfig(backend="vllm", model="m", endpoint="x")
spending = Spending(counters, BudgetConfig(max_calls=20000, max_tokens=10**9), model)
request = Request(messages=(Message(role="user", content="q"),), max_tokens=1)
usage = Usage(prompt_tokens=3, completion_tokens=1)
reply = Completion(text="r", finish_reason="stop", usage=usage, model="m", cost=0.5)
sent = 0
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        spending.begins(None)
        sent += 1
        if sys.argv[2] == "dies" and sent == 1000:
            print(sent, flush=True)
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        spending.add(request, reply)
except BudgetError:
    print(sent)
    counters.close()
"""


def test_processes_side_by_side_keep_to_one_cap(tmp_path: Path) -> None:
    """Four processes count into one file without a lock, and one dies: together they send what the cap allows."""
    ways = ["lives", "lives", "dies", "lives"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, str(tmp_path), way],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for way in ways
    ]  # fmt: skip
    try:
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        sent = [int(worker.communicate(timeout=120)[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert 20_000 <= sum(sent) < 20_000 + len(ways)
    spent = read_spent(tmp_path)
    assert spent is not None and spent.calls == sum(sent)
    assert (spent.lost, spent.tokens, spent.cost) == (1, 4 * spent.replies, spent.replies / 2)
    Counters(tmp_path).close()  # takes over what the dead one left
    assert read_spent(tmp_path) == spent


async def test_a_lost_file_is_made_of_the_journals(tmp_path: Path) -> None:
    """Of an earlier release, or deleted: replies are counted again; a file that is something else is refused."""
    async with wire_server(obliging) as server:
        config = budgeted(tmp_path, server.url)
        await pipeline(config)
        before = read_spent(config.root)
        for begun in (None, b"", bytes(100), bytes(SIZE)):
            (config.root / FILE).unlink()
            if begun is not None:
                (config.root / FILE).write_bytes(begun)
            assert read_spent(config.root) is None
            with shared(config.root):
                assert read_spent(config.root) == before
    (config.root / FILE).write_bytes(b"x" * SIZE)
    with pytest.raises(StoreError, match=r"spent\.bin: not what a run has spent; move the file away"):
        read_spent(config.root)


@pytest.mark.parametrize("caps", [{"max_calls": 7}, {"max_tokens": 200}, {"max_cost": 0.012}])
async def test_a_batch_is_no_larger_than_what_is_left(
    caps: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that could exceed a cap are not submitted; those that were are waited for, and kept."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setattr(collect, "LINGER_S", 0.05)
    monkeypatch.setattr(follow, "POLL_FIRST_S", 0.01)
    async with batch_server() as server:
        fields = {"backend": "openai", "model": "toy", "mode": "batch", "endpoint": server.openai_url}
        model = ModelConfig.model_validate(fields | {"price": {"input": 200, "output": 200}})
        client = open_model("toy", model, folder=tmp_path, say=lambda line: None)
        with shared(tmp_path) as counters, pytest.raises(BudgetError, match="budget") as stopped:
            spending = Spending(counters, BudgetConfig.model_validate(caps), model)

            class Given:
                def __enter__(self) -> Spending:
                    return spending

                def __exit__(self, *_: object) -> None: ...

            await run_shard(
                stage="batch", shard=0, root=tmp_path, rows=prompts(12), step=step, model=client,
                inputs_digest="d", limit=12, spending=Given,
            )  # fmt: skip
        await client.close()
        asked = sum(len(batch.requests) for batch in server.batches.values())
        spent = read_spent(tmp_path)
    assert spent is not None and 0 < spent.calls == asked < 24, (stopped.value, asked)
    assert spent.replies == spent.calls and counters.held_tokens == counters.held_nanos == 0
    assert spent.calls <= caps.get("max_calls", 23)
    assert spent.tokens <= caps.get("max_tokens", 200) and spent.cost <= caps.get("max_cost", 0.02)


def test_a_cap_on_money_needs_prices(tmp_path: Path) -> None:
    """Said before anything is asked; an engine of the run's own needs none."""
    from cai.accounts.budget import check_budget

    config = small_run(tmp_path, "http://127.0.0.1:9", budget={"max_cost": 1.0})
    with pytest.raises(
        ConfigError, match=r"no price is known for models\.toy \(toy\); give models\.toy\.price"
    ):
        check_budget(config)
    managed = {"toy": {"backend": "vllm", "model": "toy", "managed": {}}}
    check_budget(small_run(tmp_path, "", budget={"max_cost": 1.0}, models=managed))
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(small_config(tmp_path, "http://127.0.0.1:9", budget={})))
    with pytest.raises(ConfigError, match=r"budget: .*give 'max_calls', 'max_tokens', 'max_cost'"):
        load_config(str(path), [])


def test_a_plan_says_where_it_is_over_budget(tmp_path: Path) -> None:
    """With what is spent already."""
    config = budgeted(tmp_path, "http://127.0.0.1:9", max_calls=50, max_tokens=10**9, max_cost=0.5)
    with shared(config.root) as counters:
        counters.count_reply(10, 400_000_000)
    plan = make_plan(config)
    console = Console(file=io.StringIO(), width=200)
    print_plan(plan, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split(":")[0] for line in plan.over_budget] == ["max_calls", "max_cost"]
    assert "$0.40 of it spent already, are more than $0.50: the run would stop there" in text


def test_what_is_spent_in_words() -> None:
    """Only of what is capped."""
    caps = {"max_calls": None, "max_tokens": 2000, "max_cost": 5.0}
    spent = read_spent(Path("nowhere"))
    assert spent is None
    from cai.accounts.spending import Spent

    line = spent_line(Spent(calls=9, replies=8, tokens=1234, cost=3.5, unpriced=2), caps)
    assert line == "1,234 of 2,000 tokens, $3.50 of $5.00, 2 replies without a known price not in it"
