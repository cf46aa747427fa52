"""A stage over a shard: same bytes in any order, resumed after any crash, every row accounted for."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import (
    CaiError,
    ConfigError,
    ParseError,
    ProviderError,
    ProviderErrorKind,
    Refused,
    StoreError,
)
from cai.models.base import Completion, Request, Usage, derive_seed
from cai.rows import Drop, FinishReason, Message, Prompt, Reply, Row
from cai.shard import read_manifest
from cai.shard import run as run_module
from cai.shard.calls import together
from cai.shard.run import Ask, Asked, Progress, ShardReport, Step, ask_parsed, run_shard, shard_paths
from cai.store import read_rows

pytestmark = pytest.mark.anyio
Answer = Callable[[Request], Completion]


def completion(text: str, finish_reason: FinishReason = "stop", cost: float | None = 0.25) -> Completion:
    """A completion with ten tokens in, of which four cached, and two out."""
    usage = Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=4)
    return Completion(text=text, finish_reason=finish_reason, usage=usage, model="fake", cost=cost)


def echo(request: Request) -> Completion:
    """A reply that depends on the request alone."""
    return completion(f"re {request.messages[-1].content} #{request.seed} @{request.attempt}")


class FakeModel:
    """Answers from memory after a random number of loop turns; remembers what it was asked."""

    identity = "fake"

    def __init__(self, answer: Answer = echo, delay_seed: int | None = None) -> None:
        self.asked: list[Request] = []
        self.active = self.peak = 0
        self._answer = answer
        self._rng = None if delay_seed is None else random.Random(delay_seed)

    async def complete(self, request: Request) -> Completion:
        """One call."""
        self.asked.append(request)
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            for _ in range(self._rng.randrange(12) if self._rng else 1):
                await asyncio.sleep(0)
            return self._answer(request)
        finally:
            self.active -= 1

    async def close(self) -> None:
        """Nothing to release."""


def prompts(count: int, text: str = "q") -> list[Prompt]:
    """Prompts `p0`, `p1` …"""
    return [
        Prompt(id=f"p{i}", messages=(Message(role="user", content=f"{text}{i}"),), source="test")
        for i in range(count)
    ]


def request_of(row: Prompt, sample: int = 0) -> Request:
    """The request of one call of a row."""
    return Request(messages=row.messages, max_tokens=9, seed=derive_seed(0, row.id, "t", 0, sample))


def reply_of(row: Prompt, *asked: Asked) -> Reply:
    """A reply made of all calls of a row."""
    text = "|".join(one.completion.text for one in asked)
    calls = tuple(one.call for one in asked)
    return Reply(
        id=f"{row.id}/r", prompt=row, sample=0, text=text, finish_reason="stop", model="m", calls=calls
    )


async def three_calls(row: Prompt, ask: Ask) -> Sequence[Row]:
    """Two calls side by side, then one after them; every fifth row also drops a sample."""
    first, second = await asyncio.gather(ask(request_of(row)), ask(request_of(row, 1)))
    third = await ask(request_of(row, 2))
    reply = reply_of(row, first, second, third)
    return [reply, Drop(id=f"{row.id}/x", stage="t", reason="fifth")] if row.id.endswith("5") else [reply]


async def one_call(row: Prompt, ask: Ask) -> Sequence[Row]:
    """One call a row."""
    return [reply_of(row, await ask(request_of(row)))]


async def shard(
    root: Path,
    model: FakeModel,
    rows: Sequence[Prompt] | Iterator[Prompt],
    step: Step[Prompt] = three_calls,
    *,
    limit: int = 4,
    digest: str = "d",
    on_progress: Callable[[Progress], None] | None = None,
) -> ShardReport:
    """`run_shard` with the constants of these tests."""
    return await run_shard(
        stage="t", shard=0, root=root, rows=rows, step=step, model=model, inputs_digest=digest, limit=limit,
        on_progress=on_progress,
    )  # fmt: skip


def output(root: Path) -> tuple[bytes, bytes]:
    """The bytes of both row files."""
    paths = shard_paths(root, "t", 0)
    return paths.rows.read_bytes(), paths.drops.read_bytes()


def drops(root: Path) -> dict[str, str]:
    """Reason by row id of everything dropped."""
    return {row.id: row.reason for row in read_rows(shard_paths(root, "t", 0).drops, Drop)}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Async tests run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """What twelve rows give when asked one at a time."""
    root = tmp_path_factory.mktemp("reference")
    asyncio.run(shard(root, FakeModel(), prompts(12), limit=1))
    return output(root)


@settings(max_examples=15, deadline=None)
@given(limit=st.integers(1, 20), delay_seed=st.integers(0, 999))
def test_order_of_completion_never_shows(
    tmp_path_factory: pytest.TempPathFactory, reference: tuple[bytes, bytes], limit: int, delay_seed: int
) -> None:
    """The same bytes at any concurrency and under any delays, never above the limit, no call twice."""
    root = tmp_path_factory.mktemp("run")
    model = FakeModel(delay_seed=delay_seed)
    report = asyncio.run(shard(root, model, prompts(12), limit=limit))
    assert output(root) == reference
    assert model.peak <= limit
    assert (len(model.asked), report.calls_made, report.calls_replayed) == (36, 36, 0)
    assert (report.rows_in, report.rows_out, report.drops) == (12, 12, {"fifth": 1})


@settings(max_examples=15, deadline=None)
@given(cut=st.floats(0, 1), delay_seed=st.integers(0, 999))
def test_resumes_from_a_journal_cut_at_any_byte(
    tmp_path_factory: pytest.TempPathFactory, reference: tuple[bytes, bytes], cut: float, delay_seed: int
) -> None:
    """After a crash only the lost replies are asked again, and the output is as if nothing had happened."""
    root = tmp_path_factory.mktemp("run")
    asyncio.run(shard(root, FakeModel(delay_seed=delay_seed), prompts(12)))
    paths = shard_paths(root, "t", 0)
    whole = paths.journal.read_bytes()
    size = int(cut * len(whole))
    paths.journal.write_bytes(whole[:size])
    paths.manifest.unlink()
    model = FakeModel(delay_seed=delay_seed + 1)
    report = asyncio.run(shard(root, model, prompts(12)))
    kept = whole[: size + 1].count(b"\n")  # a line is whole without its end, too
    assert (report.calls_replayed, report.calls_made, len(model.asked)) == (kept, 36 - kept, 36 - kept)
    assert output(root) == reference


async def test_finished_shard_is_left_alone(tmp_path: Path) -> None:
    """Same digest, files intact: no call, and the rows are not even read. The report says what it was."""
    first = await shard(tmp_path, FakeModel(), prompts(12))

    def never() -> Iterator[Prompt]:
        raise AssertionError("read")
        yield

    again = await shard(tmp_path, FakeModel(), never())
    assert again.skipped
    assert (again.calls_made, again.calls_replayed, again.cost_made, again.cost) == (0, 36, 0.0, 9.0)
    assert (again.rows, again.dropped, again.drops) == (first.rows, first.dropped, first.drops)
    assert read_manifest(shard_paths(tmp_path, "t", 0).manifest) == first


@pytest.mark.parametrize("name", ["rows", "drops", "manifest"])
async def test_damaged_output_is_made_again_from_the_journal(tmp_path: Path, name: str) -> None:
    """A file that is not what the manifest says costs no call."""
    await shard(tmp_path, FakeModel(), prompts(12))
    before = output(tmp_path)
    path: Path = getattr(shard_paths(tmp_path, "t", 0), name)
    path.write_bytes(path.read_bytes()[:-2])
    model = FakeModel()
    report = await shard(tmp_path, model, prompts(12))
    assert (report.skipped, model.asked, output(tmp_path)) == (False, [], before)


async def test_moved_run_is_still_finished(tmp_path: Path) -> None:
    """Nothing in a run's folder depends on where it lies."""
    await shard(tmp_path / "a", FakeModel(), prompts(3))
    (tmp_path / "a").rename(tmp_path / "b")
    report = await shard(tmp_path / "b", FakeModel(), prompts(3))
    assert report.skipped
    assert report.rows.path == shard_paths(tmp_path / "b", "t", 0).rows


async def test_changed_inputs_ask_only_what_changed(tmp_path: Path) -> None:
    """An edited and a new row: their calls are made, the others replayed, stale replies not counted."""
    await shard(tmp_path, FakeModel(), prompts(6))
    rows = [*prompts(5), *prompts(7, "edited ")[5:]]
    model = FakeModel()
    report = await shard(tmp_path, model, rows, digest="e")
    assert (report.calls_made, report.calls_replayed, report.prompt_tokens) == (6, 15, 210)
    assert {request.messages[0].content for request in model.asked} == {"edited 5", "edited 6"}


async def test_usage_and_cost_cover_each_distinct_call_once(tmp_path: Path) -> None:
    """A request asked three times, together and later, is one call; `cost_made` leaves replayed calls out."""

    async def same(row: Prompt, ask: Ask) -> Sequence[Row]:
        request = Request(messages=(Message(role="user", content="same"),), max_tokens=1)
        pair = await asyncio.gather(ask(request), ask(request))
        return [reply_of(row, *pair, await ask(request))]

    first = await shard(tmp_path, FakeModel(delay_seed=1), prompts(5), same)
    assert (first.calls_made, first.calls_replayed, first.prompt_tokens, first.cached_tokens) == (1, 0, 10, 4)
    model = FakeModel(lambda request: completion("new", cost=None))
    both = await shard(tmp_path, model, prompts(1), three_calls, digest="e")
    assert (both.cost, both.cost_made) == (None, None)
    again = await shard(tmp_path, FakeModel(), prompts(5), same, digest="f")
    assert (again.calls_made, again.calls_replayed, again.cost, again.cost_made) == (0, 1, 0.25, 0.0)


async def test_every_lost_row_has_its_reason(tmp_path: Path) -> None:
    """Parse failures, refusals and provider failures are drops; also out of a task group of the step's."""
    kinds: list[ProviderErrorKind] = ["bad_request", "context_length"]

    async def step(row: Prompt, ask: Ask) -> Sequence[Row]:
        number = int(row.id[1:])
        if number == 1:
            raise ParseError("no verdict in it")
        if number == 2:
            raise Refused("declined")
        if number == 3:
            async with asyncio.TaskGroup() as group:
                group.create_task(one_call(row, ask))
        return await one_call(row, ask)

    def answer(request: Request) -> Completion:
        number = int(request.messages[0].content[1:])
        if number in (3, 4):
            raise ProviderError(kinds[number - 3], "no")
        return echo(request)

    report = await shard(tmp_path, FakeModel(answer), [*prompts(5), *prompts(6, "q\ud800")[5:]], step)
    assert drops(tmp_path) == {
        "p1": "unparsed", "p2": "refused", "p3": "bad_request", "p4": "context_length", "p5": "bad_request"
    }  # fmt: skip
    assert report.drops == {"bad_request": 2, "context_length": 1, "refused": 1, "unparsed": 1}
    assert report.failed_calls == {"bad_request": 2, "context_length": 1}
    assert (report.rows_in, report.rows_out) == (6, 1)


async def test_rows_lost_to_a_failing_endpoint_are_asked_again(tmp_path: Path) -> None:
    """A shard with such drops is not finished: the next run asks the lost calls, and no others."""

    def flaky(request: Request) -> Completion:
        if request.messages[0].content == "q3":
            raise ProviderError("retries_exhausted", "503 for 15 minutes")
        return echo(request)

    first = await shard(tmp_path, FakeModel(flaky), prompts(6), one_call)
    assert first.drops == {"retries_exhausted": 1}
    model = FakeModel()
    second = await shard(tmp_path, model, prompts(6), one_call)
    assert (second.drops, second.rows_out, len(model.asked)) == ({}, 6, 1)
    assert (await shard(tmp_path, FakeModel(), prompts(6), one_call)).skipped


async def test_fatal_error_stops_the_shard_and_says_how_to_go_on(tmp_path: Path) -> None:
    """No new calls, replies in flight are kept, nothing is published, and a later run goes on from there."""

    def revoked(request: Request) -> Completion:
        if request.messages[0].content == "q20":
            raise ProviderError("auth", "401: key revoked")
        return echo(request)

    model = FakeModel(revoked, delay_seed=1)
    with pytest.raises(
        ProviderError, match=r"401: key revoked; stage t stopped .* run the same command"
    ) as caught:
        await shard(tmp_path, model, prompts(500), one_call)
    assert caught.value.fatal
    assert len(model.asked) <= 20 + 2 * 4
    assert not list((tmp_path / "t").iterdir())
    healthy = FakeModel()
    report = await shard(tmp_path, healthy, prompts(500), one_call)
    assert report.calls_replayed == len(model.asked) - 1
    assert len(healthy.asked) == 500 - report.calls_replayed


async def test_step_cannot_hide_a_fatal_error(tmp_path: Path) -> None:
    """A step that swallows every error still cannot turn a revoked key into 500 drops."""

    async def careless(row: Prompt, ask: Ask) -> Sequence[Row]:
        try:
            return await one_call(row, ask)
        except CaiError:
            return [Drop(id=row.id, stage="t", reason="whatever")]

    def revoked(request: Request) -> Completion:
        raise ProviderError("auth", "401")

    with pytest.raises(ProviderError, match="401"):
        await shard(tmp_path, FakeModel(revoked), prompts(500), careless)


async def test_fatal_error_does_not_wait_for_slow_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls in flight get a moment to arrive, then are cancelled."""
    monkeypatch.setattr(run_module, "GRACE_S", 0.05)

    class Slow(FakeModel):
        async def complete(self, request: Request) -> Completion:
            if request.messages[0].content == "q0":
                raise ProviderError("not_found", "404")
            await asyncio.sleep(60)
            return echo(request)

    started = time.monotonic()
    with pytest.raises(ProviderError, match="404"):
        await shard(tmp_path, Slow(), prompts(50), one_call)
    assert time.monotonic() - started < 30  # of the 60 that they would take


async def test_fatal_error_starts_no_call_that_waits_for_a_slot(tmp_path: Path) -> None:
    """Calls queued by a row that asks many at once are not made any more."""

    async def wide(row: Prompt, ask: Ask) -> Sequence[Row]:
        return [reply_of(row, *await asyncio.gather(*(ask(request_of(row, i)) for i in range(60))))]

    def gone(request: Request) -> Completion:
        raise ProviderError("unreachable", "nothing listens")

    model = FakeModel(gone)
    with pytest.raises(ProviderError, match="nothing listens"):
        await shard(tmp_path, model, prompts(1), wide)
    assert len(model.asked) == 4


async def test_limit_below_one_is_refused(tmp_path: Path) -> None:
    """No worker would mean an empty shard that looks finished."""
    with pytest.raises(ConfigError, match="limit 0"):
        await shard(tmp_path, FakeModel(), prompts(1), limit=0)


async def test_bug_in_a_step_names_the_row(tmp_path: Path) -> None:
    """An unexpected exception is not a drop: it stops the shard, with the row and its cause."""

    async def buggy(row: Prompt, ask: Ask) -> Sequence[Row]:
        if row.id == "p7":
            raise KeyError("field")
        return await one_call(row, ask)

    with pytest.raises(
        RuntimeError, match=r"stage t, row p7: a bug in the step: KeyError: 'field'"
    ) as caught:
        await shard(tmp_path, FakeModel(), prompts(20), buggy)
    assert isinstance(caught.value.__cause__, KeyError)


async def test_row_that_vanishes_is_an_error(tmp_path: Path) -> None:
    """A step has to return a row or a drop for every input row."""

    async def nothing(row: Prompt, ask: Ask) -> Sequence[Row]:
        return []

    with pytest.raises(StoreError, match="row p0: the step returned neither a row nor a drop"):
        await shard(tmp_path, FakeModel(), prompts(1), nothing)


async def test_cancelled_shard_closes_its_journal(tmp_path: Path) -> None:
    """Cancelling (Ctrl-C) ends at once, frees the lock, leaves no task, and keeps every finished call."""

    stuck = asyncio.Event()

    class Half(FakeModel):
        async def complete(self, request: Request) -> Completion:
            if len(self.asked) >= 10:
                if not self.active:
                    stuck.set()
                await asyncio.sleep(60)
            return await super().complete(request)

    before = asyncio.all_tasks()
    model = Half()
    task = asyncio.create_task(shard(tmp_path, model, prompts(50), one_call))
    await stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    report = await shard(tmp_path, FakeModel(), prompts(50), one_call)
    assert report.calls_replayed == 10


async def test_rows_are_pulled_as_needed(tmp_path: Path) -> None:
    """At most 2 × limit rows are in work; one slow row holds up at most 16 × limit finished ones."""
    limit, pulled, done, in_work, peak = 3, 0, 0, 0, 0
    release = asyncio.Event()

    def source() -> Iterator[Prompt]:
        nonlocal pulled
        for row in prompts(400):
            pulled += 1
            assert pulled - done <= run_module.ROWS_PER_SLOT * limit
            yield row

    async def step(row: Prompt, ask: Ask) -> Sequence[Row]:
        nonlocal in_work, peak, done
        in_work += 1
        peak = max(peak, in_work)
        if row.id == "p0":
            await release.wait()
        result = await one_call(row, ask)
        in_work -= 1
        done += 1
        return result

    task = asyncio.create_task(shard(tmp_path, FakeModel(), source(), step, limit=limit))
    await asyncio.sleep(0.3)
    assert pulled == run_module.AHEAD_PER_SLOT * limit
    release.set()
    report = await task
    assert (peak, report.rows_in) == (run_module.ROWS_PER_SLOT * limit, 400)


async def test_progress_is_rare_and_ends_complete(tmp_path: Path) -> None:
    """At most five reports a second, plus the first and the last."""
    seen: list[Progress] = []
    started = time.monotonic()
    await shard(tmp_path, FakeModel(), prompts(300), one_call, on_progress=seen.append)
    assert len(seen) <= 2 + (time.monotonic() - started) / run_module.PROGRESS_INTERVAL_S
    assert seen[-1] == Progress(300, 300, 300, 0, 3000, 600, 75.0, generated=600)


async def test_unparsable_reply_is_asked_again_under_another_key(tmp_path: Path) -> None:
    """The second attempt has another number and seed; its calls are both in the lineage, and both replay."""

    def parse(text: str) -> str:
        if not text.endswith("@1"):
            raise ParseError("not yet")
        return text

    async def step(row: Prompt, ask: Ask) -> Sequence[Row]:
        text, calls = await ask_parsed(ask, request_of(row), parse)
        return [Drop(id=row.id, stage="t", reason=f"{len(set(calls))} calls", detail=text)]

    model = FakeModel()
    await shard(tmp_path, model, prompts(2), step)
    assert drops(tmp_path) == {"p0": "2 calls", "p1": "2 calls"}
    assert len({request.seed for request in model.asked}) == 4
    replay = FakeModel()
    report = await shard(tmp_path, replay, prompts(2), step, digest="e")
    assert (replay.asked, report.calls_replayed) == ([], 4)


@pytest.mark.parametrize(
    ("finish_reason", "reason", "calls"),
    [("length", "unparsed", 3), ("refusal", "refused", 1), ("content_filter", "refused", 1)],
)
async def test_replies_that_are_no_answer(
    tmp_path: Path, finish_reason: FinishReason, reason: str, calls: int
) -> None:
    """A reply cut off is asked again, then dropped; a refusal is dropped at once."""

    async def step(row: Prompt, ask: Ask) -> Sequence[Row]:
        await ask_parsed(ask, request_of(row), str)
        raise AssertionError("parsed")

    model = FakeModel(lambda request: completion("yes", finish_reason))
    await shard(tmp_path, model, prompts(1), step)
    assert (drops(tmp_path), len(model.asked)) == ({"p0": reason}, calls)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_coroutines_beside_one_that_fails_go_on(place: int) -> None:
    """The first failure is raised; the others come to their ends, and only a cancellation ends them early."""
    ended: list[int] = []
    opened = asyncio.Event()

    async def work(index: int) -> int:
        if index == place:
            raise ParseError("not one of the letters")
        await opened.wait()
        ended.append(index)
        return index

    asyncio.get_running_loop().call_later(0.01, opened.set)
    with pytest.raises(ParseError):
        await together([work(index) for index in range(3)])
    async with asyncio.timeout(5):
        while len(ended) < 2:  # noqa: ASYNC110 - tasks that nobody holds
            await asyncio.sleep(0.001)
    opened.clear()
    waiting = asyncio.create_task(together([work(index) for index in range(3, 6)]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not [task for task in asyncio.all_tasks() if "work" in repr(task.get_coro())]
    assert len(ended) == 2
