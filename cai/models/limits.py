"""Limits per minute of an account, kept by token buckets in front of the calls.

What a call will use is estimated before it goes out and put right by its real usage afterwards: the next calls
pay the difference, or are let off it. A call that is larger than a minute's allowance takes the whole bucket
instead of never going out.
"""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

from cai.config import LimitsConfig
from cai.models.base import Request, Usage

MINUTE_S = 60.0
BURST = 0.1  # share of a minute's requests that may go out at once; providers count in shorter windows too
CHARS_PER_TOKEN = 4


def estimated_tokens(request: Request) -> tuple[int, int]:
    """The tokens that a request may use, of its prompt and of its reply; the reply at its limit."""
    return sum(len(m.content) for m in request.messages) // CHARS_PER_TOKEN, request.max_tokens


def estimated_usage(request: Request, reply: str) -> Usage:
    """The tokens of a call whose reply does not count them, by the length of both."""
    return Usage(
        prompt_tokens=estimated_tokens(request)[0], completion_tokens=-(-len(reply) // CHARS_PER_TOKEN)
    )


class Buckets:
    """The token buckets of one model, for all of its clients in an event loop. Calls pass in order of arrival."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._turn = asyncio.Lock()
        self._requests: AsyncLimiter | None = None
        self._tokens: AsyncLimiter | None = None
        self._owed = 0.0
        if (rate := limits.requests_per_minute) is not None:
            burst = max(1.0, rate * BURST)
            self._requests = AsyncLimiter(burst, burst / rate * MINUTE_S)
        if (rate := limits.tokens_per_minute) is not None:
            self._tokens = AsyncLimiter(rate, MINUTE_S)

    async def take(self, tokens: float) -> float:
        """Wait until one request of so many tokens may go out; returns the tokens that it is charged."""
        async with self._turn:
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is None:
                return 0.0
            charged = min(tokens, self._tokens.max_rate)
            due, self._owed = charged + self._owed, 0.0
            paid = min(max(due, 0.0), self._tokens.max_rate)
            self._owed = due - paid
            await self._tokens.acquire(paid)
            return charged

    def settle(self, charged: float, usage: Usage) -> None:
        """Put an estimate right; what was charged too much is let off later, up to one full bucket."""
        used = usage.prompt_tokens + usage.completion_tokens
        if self._tokens is not None and used:
            self._owed = max(self._owed + used - charged, -self._tokens.max_rate)
