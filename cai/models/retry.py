"""The one retry policy around every model call, whatever the backend.

An attempt fails with `AttemptFailed`, which says what went wrong and nothing about what to do. The policy
decides: only failures that may pass are tried again, after exponential backoff with full jitter or after
the `Retry-After` that the server asked for, and never beyond the deadline of the call. A 429 costs time
only, not an attempt: being early is not being wrong. The SDKs' own retries are off, so nothing multiplies.

What leaves here is a ProviderError of one line without any key in it, even where a server echoes the key.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import aiohttp
import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from cai.errors import ProviderError, ProviderErrorKind

T = TypeVar("T")
BASE_S = 1.0
CAP_S = 30.0
CONNECT_TIMEOUT_S = 20.0
ATTEMPTS = 6
FEW_ATTEMPTS = 3  # nobody listens, or the reply is not the protocol: more of the same rarely helps
DETAIL_CHARS = 300

Passing = Literal["rate_limit", "transient", "refused", "malformed"]
Final = Literal["auth", "not_found", "bad_request", "context_length"]
Why = Passing | Final
PASSING: frozenset[str] = frozenset(get_args(Passing))
TOO_LONG = re.compile(
    r"context.length|maximum context|max_model_len|context window|(prompt|input) is too long", re.IGNORECASE
)
LOST = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)
NO_CREDIT = re.compile(r"insufficient_quota|credit balance|billing_hard_limit", re.IGNORECASE)


class AttemptFailed(Exception):
    """One attempt failed. `retry_after`: seconds that the server asks to wait."""

    def __init__(self, why: Why, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.why = why
        self.retry_after = retry_after


def http_failure(status: int, headers: Mapping[str, str], body: str) -> AttemptFailed:
    """What an HTTP error status means. `headers` must look names up without regard to case."""
    detail = f"HTTP {status}: {_server_message(body)}"
    if status == 402 or (status in (403, 429) and NO_CREDIT.search(body)):
        return AttemptFailed("auth", f"{detail} (the account has no credit left)")
    if status == 429:
        return AttemptFailed("rate_limit", detail, retry_after(headers))
    if status in (408, 409) or status >= 500:
        return AttemptFailed("transient", detail, retry_after(headers))
    if status in (401, 403):
        return AttemptFailed("auth", detail)
    if status == 404:
        return AttemptFailed("not_found", detail)
    too_long = status == 413 or TOO_LONG.search(body)
    return AttemptFailed("context_length" if too_long else "bad_request", detail)


def connection_failure(error: BaseException) -> AttemptFailed:
    """What a broken connection means; the SDKs' aiohttp transport hides the cause behind a timeout."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return AttemptFailed("refused", str(link))
        if isinstance(link, LOST):
            return AttemptFailed("transient", f"connection lost: {link}")
        link = link.__cause__ or link.__context__
    return AttemptFailed("transient", str(error) or type(error).__name__)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait (`retry-after-ms`, `Retry-After` in seconds or as a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if not math.isnan(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, date.timestamp() - time.time())


def _server_message(body: str) -> str:
    """The human sentence of an error body: `error.message` of all three protocols, else the body's text."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.strip() or "no text"
    error = data.get("error", data) if isinstance(data, dict) else data
    message = error.get("message", error) if isinstance(error, dict) else error
    return message if isinstance(message, str) else orjson.dumps(message).decode()


@dataclass
class _Call:
    """What one call has used up so far. `ends`: its deadline on the event loop's clock."""

    ends: float
    attempts: int = 0
    spent: int = 0

    def left(self) -> float:
        return self.ends - asyncio.get_running_loop().time()


class RetryPolicy:
    """Runs the attempts of a call, and words the error of the last one.

    `timeout_s` bounds one attempt, `deadline_s` the call with all its waits. `key` is what must never
    appear in a message, `key_env` the variable to name instead.
    """

    def __init__(
        self, model: str, endpoint: str, *, timeout_s: float, deadline_s: float, key: str, key_env: str
    ) -> None:
        self._name = f"{model} at {endpoint}"
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._key = key
        self._key_env = key_env
        self._reached = False

    async def call(self, once: Callable[[], Awaitable[T]]) -> T:
        """The result of `once`, tried again while that can help. Raises ProviderError when it cannot."""
        call = _Call(asyncio.get_running_loop().time() + self._deadline_s)

        async def attempt() -> T:
            call.attempts += 1
            limit = min(self._timeout_s, call.left())
            try:
                async with asyncio.timeout(limit):
                    result = await once()
            except TimeoutError as error:
                call.spent += 1
                raise AttemptFailed("transient", f"no reply within {limit:.3g} s") from error
            except AttemptFailed as failure:
                call.spent += failure.why != "rate_limit"
                raise
            self._reached = True
            return result

        def stop(state: RetryCallState) -> bool:
            return self._exhausted(_failure(state).why, call) or state.upcoming_sleep >= call.left()

        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            retry=retry_if_exception(lambda error: isinstance(error, AttemptFailed) and error.why in PASSING),
            wait=_wait,
            stop=stop,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except AttemptFailed as failure:
            # Not chained: the SDK's own error below it can hold the request, and with it the key.
            raise self._error(failure, call) from None

    def _exhausted(self, why: Why, call: _Call) -> bool:
        """True where the attempts that this kind of failure is worth are used up."""
        few = why == "malformed" or (why == "refused" and not self._reached)
        return why != "rate_limit" and call.spent >= (FEW_ATTEMPTS if few else ATTEMPTS)

    def _error(self, failure: AttemptFailed, call: _Call) -> ProviderError:
        kind, fix = self._verdict(failure, call)
        detail = " ".join(str(failure).split())
        if self._key:
            detail = detail.replace(self._key, "***")
        return ProviderError(kind, f"{self._name}: {detail[:DETAIL_CHARS]}; {fix}")

    def _verdict(self, failure: AttemptFailed, call: _Call) -> tuple[ProviderErrorKind, str]:
        tried = f"tried {call.attempts} times" if call.attempts != 1 else "tried once"
        match failure.why:
            case "auth":
                return "auth", f"check the key in {self._key_env} and what it is allowed to do"
            case "not_found":
                return "not_found", "check 'model' and 'endpoint' of this model in the config"
            case "bad_request":
                return "bad_request", "the endpoint will never take this request"
            case "context_length":
                return "context_length", "shorten the prompt, lower max_tokens or serve a longer context"
            case "refused":
                return "unreachable", f"{tried}; check that the server runs and that 'endpoint' is right"
            case "malformed":
                return "malformed", f"{tried}; check that 'endpoint' speaks this backend's protocol"
        left = call.left()
        if failure.retry_after is not None and failure.retry_after >= left > 0:
            wait = f"it asks to wait {failure.retry_after:.0f} s with {left:.0f} s left of deadline_s"
            return "retries_exhausted", f"{wait}; raise deadline_s, lower max_concurrency or resume later"
        fix = f"lower max_concurrency or raise deadline_s (now {self._deadline_s:g} s)"
        return "retries_exhausted", f"{tried}; {fix}"


def _failure(state: RetryCallState) -> AttemptFailed:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, AttemptFailed)
    return error


def _wait(state: RetryCallState) -> float:
    """Seconds until the next attempt; never before `Retry-After`, and spread over callers."""
    backoff = random.uniform(0.0, min(CAP_S, BASE_S * 2.0 ** min(state.attempt_number - 1, 10)))
    asked = _failure(state).retry_after
    return backoff if asked is None else asked + min(backoff, 1.0)
