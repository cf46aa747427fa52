"""The retry policy: what is tried again, how often, how long it waits, and what the last error says."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from cai.errors import ProviderError, ProviderErrorKind
from cai.models import retry
from cai.models.failures import AttemptFailed, Why, http_failure, retry_after
from cai.models.retry import RetryPolicy

pytestmark = pytest.mark.anyio
KEY = "sk-very-secret"


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop that is supported."""
    return "asyncio"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backoff in milliseconds."""
    monkeypatch.setattr(retry, "BASE_S", 0.002)
    monkeypatch.setattr(retry, "CAP_S", 0.02)
    yield


def policy(deadline_s: float = 5.0, timeout_s: float = 5.0) -> RetryPolicy:
    """A policy for a made-up model."""
    return RetryPolicy("m", "http://e", timeout_s=timeout_s, deadline_s=deadline_s, key=KEY, key_env="M_KEY")


def failing(
    failures: list[AttemptFailed], forever: AttemptFailed | None = None
) -> tuple[Callable[[], Awaitable[str]], list[float]]:
    """A call that fails with `failures` in turn, then always with `forever`, or succeeds; and when it was called."""
    times: list[float] = []

    async def once() -> str:
        times.append(time.monotonic())
        if len(times) <= len(failures):
            raise failures[len(times) - 1]
        if forever is not None:
            raise forever
        return "done"

    return once, times


@pytest.mark.parametrize(
    ("why", "attempts", "kind"),
    [
        ("transient", retry.ATTEMPTS, "retries_exhausted"),
        ("refused", retry.FEW_ATTEMPTS, "unreachable"),
        ("malformed", retry.FEW_ATTEMPTS, "malformed"),
        ("auth", 1, "auth"),
        ("not_found", 1, "not_found"),
        ("bad_request", 1, "bad_request"),
        ("context_length", 1, "context_length"),
    ],
)
async def test_each_failure_gets_its_attempts_and_its_kind(
    why: Why, attempts: int, kind: ProviderErrorKind
) -> None:
    """Only failures that may pass are tried again, and no more often than set."""
    once, times = failing([], AttemptFailed(why, "no"))
    with pytest.raises(ProviderError) as caught:
        await policy().call(once)
    assert (len(times), caught.value.kind) == (attempts, kind)


async def test_a_429_spends_no_attempt() -> None:
    """Many more 429s than attempts, and other failures between them, still end well."""
    limited = [AttemptFailed("rate_limit", "slow down", 0.0) for _ in range(20)]
    once, times = failing([*limited, *[AttemptFailed("transient", "oops")] * (retry.ATTEMPTS - 1)])
    assert await policy().call(once) == "done"
    assert len(times) == 20 + retry.ATTEMPTS


@pytest.mark.slow
async def test_429s_for_ever_are_asked_ever_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that always says to come back at once is not asked without end."""
    monkeypatch.setattr(retry, "CAP_S", 0.5)
    monkeypatch.setattr(retry, "SOON_S", 0.001)
    once, times = failing([], AttemptFailed("rate_limit", "slow down", 0.0))
    with pytest.raises(ProviderError):
        await policy(deadline_s=1.5).call(once)
    assert retry.ATTEMPTS < len(times) < 3 * retry.ATTEMPTS


async def test_429s_end_at_the_deadline() -> None:
    """A server that only ever says 429 costs no more than the deadline."""
    once, times = failing([], AttemptFailed("rate_limit", "slow down", 0.05))
    start = time.monotonic()
    with pytest.raises(ProviderError) as caught:
        await policy(deadline_s=0.3).call(once)
    assert caught.value.kind == "retries_exhausted"
    assert time.monotonic() - start < 10  # and not for ever
    assert 2 <= len(times) <= 6


async def test_retry_after_is_waited_for() -> None:
    """The next attempt never comes before the time that the server asked for."""
    once, times = failing([AttemptFailed("rate_limit", "slow down", 0.2)])
    await policy().call(once)
    assert 0.2 <= times[1] - times[0] < 10


async def test_a_wait_beyond_the_deadline_fails_at_once() -> None:
    """Nobody sleeps for an hour to fail then; the message says what was asked and what to do."""
    once, times = failing([AttemptFailed("rate_limit", "slow down", 3600)])
    start = time.monotonic()
    with pytest.raises(ProviderError, match=r"asks to wait 3600 s .* raise deadline_s"):
        await policy().call(once)
    assert len(times) == 1
    assert time.monotonic() - start < 60


async def test_one_attempt_is_bounded() -> None:
    """A call that hangs is given up after timeout_s and tried again."""
    count = 0

    async def once() -> str:
        nonlocal count
        count += 1
        if count == 1:
            await asyncio.sleep(60)
        return "done"

    assert await policy(timeout_s=0.05).call(once) == "done"
    assert count == 2


async def test_who_cancels_a_late_attempt_is_obeyed() -> None:
    """A timeout is told apart from a cancellation, also where both come at once; none of it is left with the task."""
    call = asyncio.create_task(policy(timeout_s=0.05).call(asyncio.Event().wait))
    asyncio.get_running_loop().call_later(0.05, call.cancel)
    with pytest.raises(asyncio.CancelledError):
        await call
    late = asyncio.create_task(policy(timeout_s=0.01, deadline_s=0.02).call(asyncio.Event().wait))
    with pytest.raises(ProviderError, match="no reply within"):
        await late
    assert late.cancelling() == 0


async def test_a_server_that_was_there_gets_more_patience() -> None:
    """A refused connection is retried longer once a call has succeeded, and still ends as unreachable."""
    patient = policy()
    good, _ = failing([])
    await patient.call(good)
    once, times = failing([], AttemptFailed("refused", "no one there"))
    with pytest.raises(ProviderError) as caught:
        await patient.call(once)
    assert (len(times), caught.value.kind) == (retry.ATTEMPTS, "unreachable")


async def test_the_message_is_one_line_without_the_key() -> None:
    """Model, endpoint and fix are named; the key is not, even where the server echoes it; nothing is chained."""
    once, _ = failing([], http_failure(401, {}, f'{{"error": {{"message": "bad key\\n{KEY}"}}}}'))
    with pytest.raises(ProviderError) as caught:
        await policy().call(once)
    text = str(caught.value)
    assert text == "m at http://e: HTTP 401: bad key ***; check the key in M_KEY and what it is allowed to do"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (400, "nope", "bad_request"),
        (
            400,
            '{"error":{"message":"This model\'s maximum context length is 2048 tokens."}}',
            "context_length",
        ),
        (400, '{"error":{"code":"context_length_exceeded"}}', "context_length"),
        (400, '{"error":{"message":"prompt is too long: 210000 tokens > 200000 maximum"}}', "context_length"),
        (413, "", "context_length"),
        (422, "", "bad_request"),
        (401, "", "auth"),
        (402, "", "auth"),
        (403, "", "auth"),
        (404, "", "not_found"),
        (408, "", "transient"),
        (409, "", "transient"),
        (429, "", "rate_limit"),
        (429, '{"error":{"code":"insufficient_quota"}}', "auth"),
        (500, "", "transient"),
        (503, "", "transient"),
        (529, "", "transient"),
    ],
)
def test_statuses(status: int, body: str, why: Why) -> None:
    """Every class of HTTP error, and those that only the body tells apart."""
    assert http_failure(status, {}, body).why == why


def test_retry_after_formats() -> None:
    """Milliseconds go first, then seconds, then a date; nonsense counts as unsaid, the past as now."""
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": "2.5"}) == 2.5
    ahead = retry_after({"retry-after": email.utils.formatdate(time.time() + 10, usegmt=True)})
    assert ahead is not None
    assert 8.5 < ahead <= 10
    assert retry_after({"retry-after": email.utils.formatdate(time.time() - 100, usegmt=True)}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "nan"}) is None
    assert retry_after({"retry-after-ms": "nan", "retry-after": "3"}) == 3
    assert retry_after({"retry-after": "-5"}) == 0
    assert retry_after({"retry-after": "1e9"}) is None
    assert retry_after({"retry-after": "inf"}) is None
    assert retry_after({"retry-after": "Wed, 99 Oct 20155 07:28:00 GMT"}) is None
    now, later = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:30"
    assert retry_after({"retry-after": later, "date": now}) == 30  # by the server's clock, and no zone is GMT
    assert retry_after({"retry-after": now}) == 0
    assert retry_after({}) is None
