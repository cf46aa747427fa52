"""What went wrong with one attempt of a call: HTTP statuses and broken connections in the policy's terms."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Literal, get_args

import aiohttp
import orjson

from cai.errors import ProviderErrorKind
from cai.masked import masked

Passing = Literal["rate_limit", "transient", "refused", "malformed"]
Final = Literal["auth", "not_found", "bad_request", "context_length", "broken"]
Why = Passing | Final
PASSING: frozenset[str] = frozenset(get_args(Passing))
TOO_LONG = re.compile(
    r"context.length|maximum context|max_model_len|context window|(prompt|input) is too long", re.IGNORECASE
)
LOST = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)
NO_CREDIT = re.compile(r"insufficient_quota|credit balance|billing_hard_limit", re.IGNORECASE)
KINDS: dict[
    Why, tuple[ProviderErrorKind, str]
] = {  # what the last failure of a call makes of it, and the fix
    "auth": ("auth", "check the key in {key_env} and what it is allowed to do"),
    "not_found": ("not_found", "check 'model' and 'endpoint' of this model in the config"),
    "bad_request": ("bad_request", "the endpoint will never take this request"),
    "context_length": (
        "context_length",
        "shorten the prompt, lower max_tokens or serve a longer context",
    ),
    "refused": ("unreachable", "{tried}; check that the server runs and that 'endpoint' is right"),
    "broken": ("broken", "mend the endpoint; no row was given up for it"),
    "malformed": ("malformed", "{tried}; check that 'endpoint' speaks this backend's protocol"),
}
LONGEST_S = 86_400.0  # a wait that is longer is a mistake, and not waited for
OVERLOADED = 529  # Anthropic's status for a service that is asked too much by everybody


class AttemptFailed(Exception):
    """One attempt failed. `retry_after`: seconds that the server asks to wait.

    `congested`: the failure says that the endpoint is asked too much, which is what the pace of calls goes by.
    """

    def __init__(
        self, why: Why, detail: str, retry_after: float | None = None, *, congested: bool = False
    ) -> None:
        super().__init__(masked(detail))
        self.why = why
        self.retry_after = retry_after
        self.congested = congested or why == "rate_limit"


def http_failure(status: int, headers: Mapping[str, str], body: str) -> AttemptFailed:
    """What an HTTP error status means. `headers` must look names up without regard to case."""
    detail = f"HTTP {status}: {_body_message(body)}"
    if 300 <= status < 400:  # never followed: the key would go along
        return AttemptFailed(
            "not_found", f"HTTP {status}: it redirects to {headers.get('location', 'nowhere')}"
        )
    if status == 402 or (status in (403, 429) and NO_CREDIT.search(body)):
        return AttemptFailed("auth", f"{detail} (the account has no credit left)")
    if status == 429:
        return AttemptFailed("rate_limit", detail, retry_after(headers))
    if status in (408, 409) or status >= 500:
        return AttemptFailed("transient", detail, retry_after(headers), congested=status == OVERLOADED)
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
    """Seconds that a response asks to wait (`retry-after-ms`, `Retry-After` in seconds or as a date).

    None where it says nothing that makes sense, more than a day included.
    """
    seconds = _number(headers.get("retry-after-ms", "")) / 1000
    if math.isnan(seconds):
        seconds = _number(headers.get("retry-after", ""))
    if math.isnan(seconds):  # a date, which is told by the server's clock
        now = _date(headers.get("date", ""))
        seconds = _date(headers.get("retry-after", "")) - (time.time() if math.isnan(now) else now)
    return max(0.0, seconds) if seconds <= LONGEST_S else None


def _number(text: str) -> float:
    """The number that a header holds, NaN where it holds none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _date(text: str) -> float:
    """Seconds since the epoch of a header's date, NaN where it is none; one without a time zone is in GMT."""
    try:
        date = email.utils.parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return math.nan


def _body_message(body: str) -> str:
    try:
        return server_message(orjson.loads(body))
    except orjson.JSONDecodeError:
        return body.strip() or "no text"


def server_message(data: object) -> str:
    """The human sentence of an error body: `error.message` of all three protocols, else all that it holds."""
    error = data.get("error", data) if isinstance(data, dict) else data
    message = error.get("message", error) if isinstance(error, dict) else error
    return message if isinstance(message, str) else orjson.dumps(message).decode()
