"""The pace of calls, on a clock of its own: congestion, limits per minute and what the provider says is left."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from cai.config import LimitsConfig
from cai.models import limits, pace
from cai.models.base import Completion, Request, Usage
from cai.models.failures import AttemptFailed
from cai.models.limits import Buckets
from cai.models.pace import Pacer
from cai.models.quota import LONGEST_WAIT_S, Left, Sent, read_left, seconds_until
from cai.models.retry import RetryPolicy
from cai.rows import Message, Prompt, Reply
from cai.shard import ShardReport
from cai.shard.run import Ask, run_shard
from tests.clock import virtual_loop

T = TypeVar("T")
MOST = 64
CALL_S = 0.05


def timed(work: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    """What the work returns, and how long it took on the virtual clock."""
    with virtual_loop() as loop:

        async def run() -> T:
            return await work()

        return loop.run_until_complete(run()), loop.time()


def policy(pacer: Pacer, deadline_s: float = 900.0) -> RetryPolicy:
    """The retry policy of a made-up model with this pacer."""
    return RetryPolicy(
        "m", "http://e", timeout_s=300, deadline_s=deadline_s, key="", key_env="K", pacer=lambda: pacer
    )


def asked(chars: int = 40, max_tokens: int = 10) -> Request:
    """A request of about `chars / 4 + max_tokens` tokens."""
    return Request(messages=(Message(role="user", content="x" * chars),), max_tokens=max_tokens)


class Endpoint:
    """A made-up endpoint: a call takes CALL_S and is answered with 429 where `refuses` says so.

    `refuses` is told how many calls are in flight, this one included. `limits`: the pace at each call.
    """

    def __init__(self, pacer: Pacer, refuses: Callable[[int], bool]) -> None:
        self.pacer, self.refuses = pacer, refuses
        self.in_flight = self.peak = 0
        self.limits: list[int] = []

    async def answer(self) -> str:
        """One attempt."""
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self.limits.append(self.pacer.limit)
        try:
            await asyncio.sleep(CALL_S)
            if self.refuses(self.in_flight):
                raise AttemptFailed("rate_limit", "slow down")
        finally:
            self.in_flight -= 1
        return "done"


async def all_done(endpoint: Endpoint, calls: int, at_once: int = 2 * MOST) -> int:
    """Make so many calls; returns how many were answered."""
    retrying, left, done = policy(endpoint.pacer), iter(range(calls)), 0

    async def caller() -> None:
        nonlocal done
        for _ in left:
            assert await retrying.call(endpoint.answer) == "done"
            done += 1

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return done


def test_single_429s_do_not_slow_the_pace() -> None:
    """One call in twenty refused at random, for thousands of calls: never a cut, all places used."""
    chance = random.Random(5)
    endpoint = Endpoint(Pacer(MOST), lambda in_flight: chance.random() < 0.05)
    done, seconds = timed(lambda: all_done(endpoint, 4000))
    assert done == 4000
    assert set(endpoint.limits) == {MOST} and endpoint.peak == MOST
    assert seconds < 1.5 * 4000 / MOST * CALL_S


def test_the_pace_follows_what_the_endpoint_can_do() -> None:
    """It falls to what is not refused, stays there without swinging, and comes back when there is more room."""
    room = 10
    endpoint = Endpoint(Pacer(MOST), lambda in_flight: in_flight > room)

    async def work() -> int:
        nonlocal room
        done = await all_done(endpoint, 2000)
        later = endpoint.limits[len(endpoint.limits) // 2 :]
        assert max(later) <= 2 * room and min(later) >= room // 2 - 1
        room = MOST
        return done + await all_done(endpoint, 4000)

    done, seconds = timed(work)
    assert done == 6000
    assert endpoint.limits[-1] == MOST
    assert seconds < 60


def test_a_storm_is_outlived() -> None:
    """Nine calls in ten refused for two seconds: the floor holds, nothing is lost, and the pace comes back."""
    chance = random.Random(3)
    pacer = Pacer(MOST)

    def refuses(in_flight: int) -> bool:
        return 1.0 <= asyncio.get_running_loop().time() < 3.0 and chance.random() < 0.9

    endpoint = Endpoint(pacer, refuses)
    done, seconds = timed(lambda: all_done(endpoint, 10_000))
    assert done == 10_000
    assert min(endpoint.limits) == MOST // pace.STEPS
    assert endpoint.limits[-1] == MOST
    assert seconds < 10_000 / MOST * CALL_S + 12


def test_one_round_of_failures_is_one_cut() -> None:
    """Calls that were under way when the pace was cut say nothing about the new pace."""

    async def work() -> list[int]:
        pacer = Pacer(MOST)
        first = [await pacer.enter() for _ in range(MOST)]
        for sent in first:
            pacer.leave(sent, True)
        limits_seen = [pacer.limit]
        second = [await pacer.enter() for _ in range(MOST // 2)]
        for sent in second + first:
            pacer.in_flight += sent in first
            pacer.leave(sent, sent in second)
        return [*limits_seen, pacer.limit]

    assert timed(work)[0] == [MOST // 2, MOST // 4]


def test_a_cancelled_wait_gives_its_place_back() -> None:
    """Also where it was cancelled with the place already in hand."""

    async def work() -> int:
        pacer = Pacer(1)
        sent = await pacer.enter()
        waiting = [asyncio.ensure_future(pacer.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        pacer.leave(sent, False)  # hands the place to the first …
        waiting[0].cancel()  # … which is gone before it can take it
        await asyncio.gather(*waiting[:2], return_exceptions=True)
        pacer.leave(await asyncio.wait_for(waiting[2], 1), False)
        return pacer.in_flight

    assert timed(work)[0] == 0


def test_who_has_been_out_before_goes_first() -> None:
    """A call that is asked again has waited already; each of both kinds keep their order."""

    async def work() -> list[str]:
        pacer, order = Pacer(1), list[str]()

        async def call(name: str, again: bool) -> None:
            sent = await pacer.enter(again=again)
            order.append(name)
            pacer.leave(sent, False)

        sent = await pacer.enter()
        async with asyncio.TaskGroup() as group:
            for name in ("first", "again", "second", "again too"):
                group.create_task(call(name, name.startswith("again")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            pacer.leave(sent, False)
        return order

    assert timed(work)[0] == ["again", "again too", "first", "second"]


def test_a_halted_pace_gives_no_place_to_whoever_waits() -> None:
    """What is under way ends, and nothing takes its place; those who wait can be cancelled."""

    async def work() -> tuple[int, bool]:
        pacer = Pacer(32)
        under_way = [await pacer.enter() for _ in range(32)]
        waiting = [asyncio.ensure_future(pacer.enter()) for _ in range(2)]
        await asyncio.sleep(0)
        pacer.halt()
        for sent in under_way:
            pacer.leave(sent, False)
        waiting.append(asyncio.ensure_future(pacer.enter()))
        await asyncio.sleep(1)
        anybody = any(turn.done() for turn in waiting)
        for turn in waiting:
            turn.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return pacer.in_flight, anybody

    assert timed(work)[0] == (0, False)


def test_who_waits_out_a_failure_holds_no_place() -> None:
    """With one place, another call is answered while the first one waits for its Retry-After."""

    async def work() -> list[tuple[str, float]]:
        retrying, loop = policy(Pacer(1)), asyncio.get_running_loop()
        order: list[tuple[str, float]] = []
        tried: set[str] = set()

        async def call(name: str, fails: bool) -> None:
            async def once() -> None:
                if fails and name not in tried:
                    tried.add(name)
                    raise AttemptFailed("rate_limit", "slow down", 100.0)
                await asyncio.sleep(1)

            await retrying.call(once)
            order.append((name, loop.time()))

        await asyncio.gather(call("early", True), call("late", False))
        return order

    (first, soon), (second, later) = timed(work)[0]
    assert (first, second) == ("late", "early")
    assert soon < 2 and 100 <= later < 103


def test_waiting_for_its_turn_is_not_held_against_a_call() -> None:
    """A deadline is about failures: a call behind a long queue is asked all the same."""

    async def work() -> int:
        retrying = policy(Pacer(1), deadline_s=10)

        async def once() -> int:
            await asyncio.sleep(8)
            return 1

        return sum(await asyncio.gather(*(retrying.call(once) for _ in range(20))))

    done, seconds = timed(work)
    assert done == 20
    assert seconds == pytest.approx(160, abs=0.01)


def sends(buckets: Buckets, requests: int, request: Request, used: int | None = None) -> list[float]:
    """When each of so many calls went out, all wanting to at once; `used`: the tokens that each really took."""
    pacer = Pacer(10_000, buckets)
    times: list[float] = []

    async def call() -> None:
        sent = await pacer.enter(request)
        times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1)
        pacer.leave(sent, False)
        if used is not None:
            pacer.settle(sent, Usage(prompt_tokens=used))

    async def work() -> None:
        for _ in range(requests // 50):
            await asyncio.gather(*(call() for _ in range(50)))

    timed(work)
    return times


def most_within(times: list[float], seconds: float) -> int:
    """The largest number of calls in any window of so many seconds."""
    return max(sum(start <= time < start + seconds for time in times) for start in times)


def test_requests_per_minute_are_held() -> None:
    """Over any minute, within the burst of a tenth of a minute, and without waste."""
    times = sends(Buckets(LimitsConfig(requests_per_minute=100)), 500, asked())
    assert len(times) == 500
    assert most_within(times, 60) <= 100 + 100 * limits.BURST + 1
    assert max(times) < 5 * 60 + 60


@pytest.mark.parametrize("rate", [0.5, 1, 3])
def test_slow_limits_hold_too(rate: float) -> None:
    """Less than one request for each tenth of a minute is no error, and never two at once."""
    times = sends(Buckets(LimitsConfig(requests_per_minute=rate)), 50, asked())
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert min(gaps) == pytest.approx(60 / rate, abs=0.01)


@pytest.mark.parametrize("used", [5, 20, 80])
def test_tokens_per_minute_are_held_by_what_is_really_used(used: int) -> None:
    """Estimated at 20 tokens each: what is used beyond is paid by later calls, what is not is let off."""
    rate = 1000
    times = sends(Buckets(LimitsConfig(tokens_per_minute=rate)), 1000, asked(), used)
    whole = max(times)
    bucket_and_round = rate + 50 * used  # a round of 50 calls is out before any is known
    assert 1000 * used <= rate * whole / 60 + rate + bucket_and_round
    assert whole <= 1.5 * 1000 * used * 60 / rate + 60


def test_a_call_beyond_the_bucket_takes_all_of_it() -> None:
    """It is asked, a minute after the one before, instead of never."""
    times = sends(Buckets(LimitsConfig(tokens_per_minute=100)), 50, asked(max_tokens=10_000))
    assert times[1] - times[0] == pytest.approx(60, abs=0.01)
    assert len(times) == 50


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("6m0s", 360),
        ("120ms", 0.12),
        ("1.5s", 1.5),
        ("1h2m3s", 3723),
        ("0s", 0),
        ("", None),
        ("soon", None),
        ("-5s", None),
        ("5", None),
        ("1s garbage", None),
        ("9" * 30 + "s", None),
        ("nan", None),
        ("2026-11-21", None),
        ("2026-11-21T10:00:00", None),
        ("2026-99-21T10:00:00Z", None),
        ("s" * 100_000, None),
    ],
)
def test_resets(reset: str, seconds: float | None) -> None:
    """Durations are read; what is neither a duration nor a full date is nothing."""
    assert seconds_until(reset) == seconds


def test_resets_by_date() -> None:
    """RFC 3339, in any offset; a date in the past is a negative wait."""
    now = datetime.now(UTC)
    for ahead in (30, -30):
        text = (now + timedelta(seconds=ahead)).isoformat(timespec="seconds").replace("+00:00", "Z")
        assert seconds_until(text) == pytest.approx(ahead, abs=5)


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        (
            {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "20s"},
            [Left("requests", 3, 20)],
        ),
        (
            {
                "x-ratelimit-limit-tokens": "1000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m",
            },
            [Left("tokens", 0, 60)],
        ),
        ({"anthropic-ratelimit-output-tokens-remaining": "7"}, []),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "20s"}, []),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "20s"}, []),
        ({"x-ratelimit-remaining-requests": "٣", "x-ratelimit-reset-requests": "20s"}, []),
        ({"x-ratelimit-remaining-requests": "9" * 5000, "x-ratelimit-reset-requests": "20s"}, []),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "never"}, []),
        (
            {
                "x-ratelimit-limit-requests": "0",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "9s",
            },
            [],
        ),
        ({}, []),
    ],
)
def test_headers(headers: dict[str, str], left: list[Left]) -> None:
    """Both halves of a limit are needed; a value that cannot be, and a limit of nothing, say nothing."""
    assert read_left(headers) == left


@pytest.mark.parametrize(
    ("reset", "resumes"), [("20s", 20.0), ("8760h", LONGEST_WAIT_S), ("0s", 0.0), ("x", 0.0)]
)
def test_calls_wait_for_the_reset(reset: str, resumes: float) -> None:
    """When nothing is left, the next call goes out at the reset; never later than the longest wait."""

    async def work() -> list[float]:
        pacer, loop = Pacer(8), asyncio.get_running_loop()
        first = await pacer.enter()
        pacer.heed({"x-ratelimit-remaining-requests": "2", "x-ratelimit-reset-requests": reset}, first)
        pacer.leave(first, False)
        times = []
        for _ in range(3):
            pacer.leave(await pacer.enter(), False)
            times.append(loop.time())
        return times

    assert timed(work)[0] == pytest.approx([0, 0, resumes], abs=0.01)


def test_what_is_under_way_counts_against_what_is_left() -> None:
    """A reply speaks of the time of its call: those that went out since have used up some of it."""

    async def work() -> tuple[bool, Sent]:
        pacer = Pacer(8)
        first, *_ = [await pacer.enter() for _ in range(4)]
        pacer.heed({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "30s"}, first)
        waiting = asyncio.ensure_future(pacer.enter())
        await asyncio.sleep(29)
        return waiting.done(), await waiting

    (early, _), seconds = timed(work)
    assert not early
    assert seconds == pytest.approx(30, abs=0.01)


def test_tokens_left_are_counted_as_estimated() -> None:
    """Once a provider speaks of tokens, a call that would use more than is left waits."""

    async def work() -> list[float]:
        pacer, loop = Pacer(8), asyncio.get_running_loop()
        first = await pacer.enter(asked())
        pacer.heed({"x-ratelimit-remaining-tokens": "45", "x-ratelimit-reset-tokens": "12s"}, first)
        times = []
        for _ in range(3):
            await pacer.enter(asked())  # 20 tokens each
            times.append(loop.time())
        return times

    assert timed(work)[0] == pytest.approx([0, 0, 12], abs=0.01)


def test_the_policy_settles_by_real_usage() -> None:
    """A completion's usage reaches the buckets of its model."""
    reply = Completion(text="", finish_reason="stop", usage=Usage(prompt_tokens=600), model="m")

    async def work() -> None:
        retrying = policy(Pacer(8, Buckets(LimitsConfig(tokens_per_minute=600))))

        async def once() -> Completion:
            return reply

        for _ in range(3):
            await retrying.call(once, asked())

    assert timed(work)[1] > 60


class Flaky:
    """A model with one place, which refuses its first call: that is to be tried again in 100 s."""

    identity = "flaky"

    def __init__(self) -> None:
        self.refused, self.in_flight, self.peak = False, 0, 0
        self.order: list[str] = []
        self._policy = policy(Pacer(1))

    async def complete(self, request: Request) -> Completion:
        """One call."""
        text = request.messages[-1].content

        async def once() -> Completion:
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            await asyncio.sleep(1)
            self.in_flight -= 1
            if not self.refused:
                self.refused = True
                raise AttemptFailed("rate_limit", "slow down", 100.0)
            self.order.append(text)
            return Completion(text=text, finish_reason="stop", usage=Usage(), model="m")

        return await self._policy.call(once, request)

    async def close(self) -> None:
        """Nothing to release."""


def test_a_shard_goes_on_while_calls_wait_out_a_failure(tmp_path: Path) -> None:
    """With one call at a time, the others are made in the place of those that wait; never two at once."""
    model = Flaky()
    prompts = [
        Prompt(id=f"p{n}", messages=(Message(role="user", content=f"{n}"),), source="s") for n in range(4)
    ]

    async def step(prompt: Prompt, ask: Ask) -> list[Reply]:
        said = [
            await ask(Request(messages=prompt.messages, max_tokens=8, attempt=again)) for again in range(2)
        ]
        return [
            Reply(
                id=prompt.id,
                prompt=prompt,
                sample=0,
                text=said[0].completion.text,
                finish_reason="stop",
                model="m",
                calls=tuple(call for _, call in said),
            )
        ]

    async def work() -> ShardReport:
        return await run_shard(
            stage="generate",
            shard=0,
            root=tmp_path,
            rows=prompts,
            step=step,
            model=model,
            inputs_digest="x",
            limit=1,
        )

    report, seconds = timed(work)
    assert (report.rows_out, report.calls_made, model.peak) == (4, 8, 1)
    assert model.order == ["1", "1", "2", "2", "3", "3", "0", "0"]
    assert seconds < 110
