"""The pace of calls to one model: how many are under way at once, and how many go out in a minute.

The number in flight adapts to the endpoint: it is cut by half where a good part of a whole window of calls
came back as 429, 529 or timeout, and grows again step by step. A window is as many calls as are in flight, and
no single event counts for anything by itself: a provider that answers one call in twenty with a 429 at random
is no slower for it, and a pace that fell with each of them would stand still. Calls that were under way
when the pace was cut say nothing about the new one.

Whatever waits here holds no place: for a place, for the account's limits per minute, or for what the provider
says is used up. One pacer serves all clients of a model in an event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from cai.config import ModelConfig
from cai.models.base import Request, Usage
from cai.models.limits import Buckets, estimated_tokens
from cai.models.quota import Quota, Sent

WINDOW = 20  # calls in the smallest window: one in twenty by chance stays far below CUT_FROM
CUT_FROM = 0.3  # share of congested calls in a window from which the pace is cut …
GROW_BELOW = 0.15  # … and below which it grows
STEPS = 16  # of additive increase, from nothing to the most; the floor is one step


class Pacer:
    """Lets calls go out: at most `most` at once, fewer where the endpoint is asked too much.

    `limit`: how many may be in flight at the moment. `buckets`: the account's limits per minute, if it has any.
    """

    def __init__(self, most: int, buckets: Buckets | None = None) -> None:
        self.limit = self._most = most
        self.in_flight = 0
        self.sent = Sent()
        self._step = max(1, most // STEPS)
        self._buckets = buckets
        self._quota = Quota()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._again: deque[asyncio.Future[None]] = deque()  # those that have been out before
        self._seen = self._congested = 0

    async def enter(self, request: Request | None = None, again: bool = False) -> Sent:
        """Wait until a call may go out, and take its place; returns what has gone out with it.

        `request`: what it asks, None for a call that generates nothing. `again`: it has been out before and goes
        ahead of those that have not, for it has waited already, and a shard's next stage may wait for it.
        """
        tokens = (0, 0)
        if request is not None and (self._buckets is not None or self._quota.counts_tokens):
            tokens = estimated_tokens(request)
        charged = await self._buckets.take(sum(tokens)) if self._buckets is not None else 0.0
        while True:
            if self.in_flight >= self.limit or self._waiting or self._again:
                await self._place(again)
            else:
                self.in_flight += 1
            sent = self.sent
            after = Sent(
                sent.requests + 1, sent.input + tokens[0], sent.output + tokens[1], charged, sent.cuts
            )
            wait = self._quota.wait_s(after, asyncio.get_running_loop().time()) if self._quota.bounds else 0.0
            if not wait:
                self.sent = after
                return after
            self._free()
            await asyncio.sleep(wait)

    def leave(self, sent: Sent, congested: bool | None) -> None:
        """Give the place back. `congested`: whether the endpoint was asked too much; None: nobody knows."""
        if congested is not None and sent.cuts == self.sent.cuts:
            self._seen += 1
            self._congested += congested
            if self._seen >= max(WINDOW, self.limit):
                self._adapt()
        self._free()

    def heed(self, headers: Mapping[str, str], sent: Sent) -> None:
        """Take note of what a reply's headers say is left; `sent`: what had gone out by its call."""
        self._quota.heed(headers, sent, asyncio.get_running_loop().time())

    def settle(self, sent: Sent, usage: Usage) -> None:
        """Put the estimated tokens of a call right by its real usage."""
        if self._buckets is not None:
            self._buckets.settle(sent.charged, usage)

    def halt(self) -> None:
        """Let no further call go out, ever: whoever waits, waits until it is cancelled."""
        self.limit = self._most = self._step = 0

    def _adapt(self) -> None:
        share = self._congested / self._seen
        self._seen = self._congested = 0
        if share >= CUT_FROM:
            self.limit = max(self._step, self.limit // 2)
            self.sent = self.sent._replace(cuts=self.sent.cuts + 1)
        elif share < GROW_BELOW:
            self.limit = min(self._most, self.limit + self._step)

    async def _place(self, again: bool) -> None:
        """Wait for a place in the order of arrival among one's like; it is taken by whoever hands it over."""
        turn = asyncio.get_running_loop().create_future()
        (self._again if again else self._waiting).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # cancelled with the place in hand
                self._free()
            raise

    def _free(self) -> None:
        self.in_flight -= 1
        while (waiting := self._again or self._waiting) and self.in_flight < self.limit:
            turn = waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)


Account = tuple[str, str, str | None, str]
_pacers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Account, str, int], Pacer]] = (
    WeakKeyDictionary()
)
_buckets: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Account, Buckets]] = WeakKeyDictionary()


def pacer_of(config: ModelConfig, endpoint: str) -> Pacer:
    """The pacer of a model at an endpoint, one for all its clients in the running event loop.

    Limits per minute belong to the account, so several endpoints of a model share them.
    """
    loop, limits = asyncio.get_running_loop(), config.limits
    account = (config.backend, config.model, config.api_key_env, limits.model_dump_json() if limits else "")
    buckets = _buckets.setdefault(loop, {})
    if limits is not None and account not in buckets:
        buckets[account] = Buckets(limits)
    pacers = _pacers.setdefault(loop, {})
    key = (account, endpoint, config.max_concurrency)
    if key not in pacers:
        pacers[key] = Pacer(config.max_concurrency, buckets.get(account))
    return pacers[key]


def halt() -> None:
    """Let no further call of this process go out.

    Those that are cancelled leave their places one by one, and nobody must take them who is only cancelled next.
    """
    for pacers in list(_pacers.values()):
        for pacer in list(pacers.values()):
            pacer.halt()


def unpaced() -> Pacer:
    """A pacer that lets every call go out at once."""
    return Pacer(most=2**31)
