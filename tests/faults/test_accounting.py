"""The accounting invariant: every row and every call of a run is accounted for, whatever happens to it."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.conduct.accounts import account
from cai.errors import AccountingError, ParseError, ProviderError
from cai.journal import Journal
from cai.models import retry
from cai.models.base import ChatModel, Completion, Request, Usage
from cai.models.failures import AttemptFailed, Why
from cai.models.retry import RetryPolicy
from cai.report.status import run_status, shard_reports
from cai.rows import Drop, Message, Prompt, Reply, Row
from cai.shard import ShardReport, read_manifest, write_manifest
from cai.shard.accounting import RowsIn, check_shard
from cai.shard.calls import ask_parsed
from cai.shard.run import Ask, run_shard, shard_paths
from tests.conduct.here import pipeline
from tests.flows.small import obliging, small_run
from tests.wire import Fault, wire_server

pytestmark = pytest.mark.anyio
ROWS, LIMIT = 10, 4
WHYS: tuple[Why, ...] = ("rate_limit", "transient", "malformed", "bad_request", "context_length")


def check_rows(report: ShardReport) -> None:
    """A shard's files hold as many rows and drops as its manifest says, every id once."""
    rows, dropped = (
        [json.loads(line)["id"] for line in path.read_bytes().splitlines()]
        for path in (report.rows.path, report.dropped.path)
    )
    assert (len(rows), len(dropped)) == (report.rows_out, sum(report.drops.values()))
    assert len({*rows, *dropped}) == len(rows) + len(dropped)


class Unsteady:
    """A model behind the real retry policy, whose attempts fail at random, for good at last at `dies`."""

    identity = "unsteady"

    def __init__(self, seed: int, failing: float, dies: int) -> None:
        self._rng, self._failing, self._left = random.Random(seed), failing, dies
        self.attempts = 0
        self.failed: Counter[str] = Counter()
        self._policy = RetryPolicy("m", "e", timeout_s=60, deadline_s=60, key="", key_env="K")

    async def complete(self, request: Request) -> Completion:
        """One call."""

        async def once() -> Completion:
            self.attempts += 1
            self._left -= 1
            await asyncio.sleep(0)
            if self._left == 0 or self._rng.random() < self._failing:
                why: Why = "auth" if self._left == 0 else self._rng.choice(WHYS)
                self.failed[why] += 1
                raise AttemptFailed(why, "no")
            text = "odd" if self._rng.random() < 0.2 else f"re {request.messages[0].content}"
            return Completion(text=text, finish_reason="stop", usage=Usage(prompt_tokens=1), model="m")

        return await self._policy.call(once, request)

    async def close(self) -> None:
        """Nothing to close."""


async def sampled(row: Prompt, ask: Ask) -> Sequence[Row]:
    """Some rows give several replies, some a reply and a drop, some drops only; some ask what others ask."""

    def parse(text: str) -> str:
        if text == "odd":
            raise ParseError("odd")
        return text

    number, found = int(row.id[1:]), list[Row]()
    for index in range(1 + number % 3):
        text = "shared" if number % 4 == 1 else f"{row.id} {index}"
        request = Request(messages=(Message(role="user", content=text),), max_tokens=3, seed=index)
        try:
            said, calls = await ask_parsed(ask, request, parse)
        except ProviderError as error:
            if error.fatal:
                raise
            found.append(Drop(id=f"{row.id}/r{index}", stage="t", reason=error.kind))
            continue
        found.append(
            Reply(id=f"{row.id}/r{index}", prompt=row, sample=index, text=said, finish_reason="stop",
                  model="m", calls=calls)
        )  # fmt: skip
    return found


async def run(root: Path, model: ChatModel, digest: str) -> None:
    """One shard."""
    rows = [
        Prompt(id=f"p{n}", messages=(Message(role="user", content="q"),), source="s") for n in range(ROWS)
    ]
    await run_shard(
        stage="t", shard=0, root=root, rows=rows, step=sampled, model=model, inputs_digest=digest, limit=LIMIT
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9999),
    failing=st.sampled_from([0.0, 0.1, 0.4]),
    deaths=st.lists(st.integers(1, 20), max_size=3),
)
def test_rows_and_calls_add_up_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, seed: int, failing: float, deaths: list[int]
) -> None:
    """Failing attempts, replies that do not parse, shared requests, runs that die: nothing is lost or twice."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(retry, "BASE_S", 0.0)
        for number, dies in enumerate(deaths):
            try:
                asyncio.run(run(root, Unsteady(seed + number, failing, dies), str(number)))
            except ProviderError as error:
                assert error.fatal
        journal = shard_paths(root, "t", 0).journal
        before = journal.read_bytes().count(b"\n") if journal.exists() else 0
        model = Unsteady(seed, failing, 0)
        asyncio.run(run(root, model, "last"))
    report = read_manifest(shard_paths(root, "t", 0).manifest)
    assert report is not None
    check_rows(report)
    ids = [json.loads(line)["id"] for path in (report.rows.path, report.dropped.path) for line in path.open()]
    inputs = {name.partition("/")[0] for name in ids}
    kept = {json.loads(line)["id"].partition("/")[0] for line in report.rows.path.open()}
    assert inputs == {f"p{n}" for n in range(ROWS)} and len(ids) == len(set(ids))
    assert (report.rows_in, report.rows_used, report.rows_lost) == (ROWS, len(kept), ROWS - len(kept))
    assert (report.attempts, report.failed_attempts) == (model.attempts, dict(model.failed))
    assert journal.read_bytes().count(b"\n") - before == report.calls_made
    assert report.attempts == report.calls_made + sum(model.failed.values())


async def test_a_run_accounts_for_every_attempt(tmp_path: Path) -> None:
    """The server's own count of what it got is what the run says it sent, by class; links between stages hold."""
    kinds = {
        3: Fault(status=429, headers={"Retry-After": "0"}),
        5: Fault(status=500),
        11: Fault(kind="truncated"),
    }
    faults = [kinds.get(n % 20) for n in range(200)]
    async with wire_server(obliging, faults=faults) as server:
        config = small_run(tmp_path, server.url)
        await pipeline(config)
        found = run_status(config.root)["accounting"]
        failed = Counter(fault.kind or str(fault.status) for fault in faults[: server.calls] if fault)
    assert (found["read"], found["prompts"], found["dropped"]) == (26, 24, 2)
    assert found["attempts"] == server.calls == found["replies"] + sum(failed.values())
    assert found["attempts_lost"] == 0 and found["replies"] == found["calls"]
    assert found["failed_attempts"] == {
        "rate_limit": failed["429"], "transient": failed["500"], "malformed": failed["truncated"]
    }  # fmt: skip
    for stage in found["stages"]:
        for report in shard_reports(config.root, stage):
            check_rows(report)

    (stale,) = [report for report in shard_reports(config.root, "revise") if report.shard == 1]
    manifest = shard_paths(config.root, "revise", 1).manifest
    write_manifest(manifest, stale.model_copy(update={"rows_lost": 1}))
    with pytest.raises(AccountingError, match=r"stage revise, shard 1: \d+ rows in, but \d+ rows that gave"):
        account(config)
    write_manifest(manifest, stale)
    (pairs,) = [report for report in shard_reports(config.root, "demonstrations") if report.shard == 2]
    changed = {"rows_in": pairs.rows_in + 1, "rows_lost": (pairs.rows_lost or 0) + 1}
    write_manifest(shard_paths(config.root, "demonstrations", 2).manifest, pairs.model_copy(update=changed))
    with pytest.raises(
        AccountingError, match=r"demonstrations, shard 2: \d+ rows in, but \d+ rows of revise; this"
    ):
        account(config)
    account(config, whole=False)


async def test_what_is_sent_to_another_replica_is_another_attempt(tmp_path: Path) -> None:
    """A call that one server loses and the next one answers has been sent twice."""
    async with (
        wire_server(obliging, faults=lambda n: Fault(status=500)) as bad,
        wire_server(obliging) as good,
    ):
        replicas = {"backend": "vllm", "model": "toy", "endpoints": [bad.url, good.url], "max_concurrency": 4}
        config = small_run(tmp_path, "", models={"toy": replicas})
        await pipeline(config)
        found = run_status(config.root)["accounting"]
        assert bad.calls > 0 and found["attempts"] == bad.calls + good.calls
    assert found["failed_attempts"] == {"transient": bad.calls} and found["replies"] == good.calls


async def test_what_does_not_add_up_stops_the_shard(tmp_path: Path) -> None:
    """Each number that must be the same is held against the other, and both are named."""
    await run(tmp_path, Unsteady(1, 0.2, 0), "d")
    paths = shard_paths(tmp_path, "t", 0)
    report = read_manifest(paths.manifest)
    assert report is not None and report.attempts is not None and report.rows_lost is not None
    with Journal(paths.journal) as journal:
        replayed = report.calls_made + report.calls_replayed
        same = report.model_copy(
            update={"calls_made": 0, "calls_replayed": replayed, "attempts": 0, "failed_attempts": {}}
        )
        with pytest.raises(AccountingError, match=f"{replayed} calls behind the rows, but 0 replies used"):
            check_shard(same, journal)
        for key in json_keys(paths.journal):
            journal.get(key)
        check_shard(same, journal)
        wrong = {
            "calls_made": (1, "1 calls made, but 0 replies journalled"),
            "attempts": (7, "7 attempts sent, but 0 replies and failed attempts"),
            "rows_lost": (report.rows_lost + 2, "10 rows in, but 12 rows that gave rows or were dropped"),
            "rows_out": (99, "but 99 rows out"),
            "drops": ({"unparsed": 50}, "but 50 drops by reason"),
        }
        for field, (value, message) in wrong.items():
            with pytest.raises(AccountingError, match=f"stage t, shard 0: .*{message}"):
                check_shard(same.model_copy(update={field: value}), journal)
    with pytest.raises(AccountingError, match="row p1 gave p10/r0, which is of another row"):
        RowsIn("t", 0).add("p1", [Drop(id="p10/r0", stage="t", reason="x")])


def json_keys(journal: Path) -> list[str]:
    """The keys of a journal's lines."""
    return [json.loads(line)["key"] for line in journal.read_text().splitlines()]


def test_older_manifests_are_read(tmp_path: Path) -> None:
    """What they do not tell is not held against them."""
    asyncio.run(run(tmp_path, Unsteady(1, 0.0, 0), "d"))
    path = shard_paths(tmp_path, "t", 0).manifest
    stored = json.loads(path.read_text())
    for name in ("rows_used", "rows_lost", "attempts", "failed_attempts", "check"):
        del stored[name]
    path.write_text(json.dumps(stored))
    report = read_manifest(path)
    assert report is not None and (report.rows_used, report.failed_attempts) == (None, {})
