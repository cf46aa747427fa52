"""What a provider's replies say is left of its limits: read from their headers, and waited for in time.

Such headers are a help, not a promise: a value that makes no sense is passed over, and no wait that they ask
for is longer than `LONGEST_WAIT_S`; the call that is too early then meets a 429, which costs time only.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

LONGEST_WAIT_S = 60.0  # limits are per minute
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
COUNT = re.compile(r"[0-9]{1,15}")
OPENAI = {"requests": "x-ratelimit-{}-requests", "tokens": "x-ratelimit-{}-tokens"}
ANTHROPIC = {
    "requests": "anthropic-ratelimit-requests-{}",
    "tokens": "anthropic-ratelimit-tokens-{}",
    "input": "anthropic-ratelimit-input-tokens-{}",
    "output": "anthropic-ratelimit-output-tokens-{}",
}


class Sent(NamedTuple):
    """How much had gone out when a call did, the call included; tokens as estimated.

    `charged`: what the call was charged in tokens. `cuts`: how often the pace had been cut by then.
    """

    requests: int = 0
    input: int = 0
    output: int = 0
    charged: float = 0.0
    cuts: int = 0

    def of(self, kind: str) -> int:
        """How much of one kind of limit had gone out."""
        if kind == "requests":
            return self.requests
        return (self.input if kind != "output" else 0) + (self.output if kind != "input" else 0)


class Left(NamedTuple):
    """What one reply says of one limit: so much `remaining`, and all of it back in `reset_s` seconds."""

    kind: str
    remaining: int
    reset_s: float


def read_left(headers: Mapping[str, str]) -> list[Left]:
    """What the headers of a reply say is left, of either provider; `headers` in any case of letters."""
    found = []
    for names in (OPENAI, ANTHROPIC):
        for kind, name in names.items():
            remaining = headers.get(name.format("remaining"))
            if remaining is None or not COUNT.fullmatch(remaining):
                continue
            limit = headers.get(name.format("limit"))
            reset_s = seconds_until(headers.get(name.format("reset"), ""))
            if reset_s is not None and (limit is None or (COUNT.fullmatch(limit) and int(limit) > 0)):
                found.append(Left(kind, int(remaining), reset_s))
    return found


def seconds_until(reset: str) -> float | None:
    """Seconds until a reset given as a duration (6m0s, 120ms) or as an RFC 3339 date; None for anything else."""
    if len(reset) > 40:
        return None
    parts = DURATION.findall(reset)
    if parts and "".join(number + unit for number, unit in parts) == reset:
        return sum(float(number) * UNITS[unit] for number, unit in parts)
    try:
        date = datetime.fromisoformat(reset)
    except ValueError:
        return None
    if "T" not in reset.upper() or date.tzinfo is None:
        return None
    return (date.astimezone(UTC) - datetime.fromtimestamp(time.time(), UTC)).total_seconds()


class Quota:
    """How much more may go out, of what the last replies left.

    `bounds`: for each kind of limit up to which count, and until when on the event loop's clock. `counts_tokens`:
    whether the provider speaks of tokens at all.
    """

    def __init__(self) -> None:
        self.bounds: dict[str, tuple[int, float]] = {}
        self.counts_tokens = False

    def heed(self, headers: Mapping[str, str], sent: Sent, now: float) -> None:
        """Take note of a reply's headers; `sent`: what had gone out by its call. `now`: the event loop's clock."""
        for left in read_left(headers):
            self.counts_tokens |= left.kind != "requests"
            if left.reset_s > 0:
                until = now + min(left.reset_s, LONGEST_WAIT_S)
                self.bounds[left.kind] = (sent.of(left.kind) + left.remaining, until)

    def wait_s(self, after: Sent, now: float) -> float:
        """Seconds until a call may go out that brings the counts to `after`; 0 where it may now."""
        wait = 0.0
        for kind, (most, until) in list(self.bounds.items()):
            if until <= now:
                del self.bounds[kind]
            elif after.of(kind) > most:
                wait = max(wait, until - now)
        return wait
