"""Prompt caching for Anthropic: marks on the beginnings that many requests have in common.

A write to the provider's cache costs more than plain input, a read a small part of it. So a beginning is marked
only when several requests that go on differently have had it: few-shot turns and a system prompt have, one
conversation that is answered n times has not. While the first marked request is under way the others go without
a mark, because nothing can be read before it is written. Marks are no part of a `Request`, so no journal key
depends on them.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import orjson

from cai.models.base import Usage
from cai.models.limits import CHARS_PER_TOKEN

Json = dict[str, Any]
MARK = {"type": "ephemeral"}
MIN_CHARS = (
    1024 * CHARS_PER_TOKEN
)  # the least that any model caches; where a model wants more, a mark is free
SHARED_BY = 4  # different continuations: a write at 1.25 and one read at 0.1 of the price already pay
KEPT = 512  # beginnings that are remembered
FRESH_S = 240.0  # an entry lives for five minutes after its last use
WRITING_S = 60.0  # a write that nobody has heard of for so long is tried again


@dataclass
class Prefix:
    """One beginning, and whether the provider has it. Times are on the monotonic clock."""

    continued: set[bytes] = field(default_factory=set)
    fresh_until: float = 0.0
    writing_until: float = 0.0
    too_short: bool = False

    def answered(self, usage: Usage) -> None:
        """Take note of the reply to a marked request: an entry is there now, or the model caches no such thing."""
        if usage.cached_tokens or usage.cached_write_tokens:
            self.fresh_until = time.monotonic() + FRESH_S
        else:
            self.too_short = True

    def wants_mark(self) -> bool:
        """Whether a request with this beginning should be marked now."""
        now = time.monotonic()
        if self.too_short or len(self.continued) < SHARED_BY:
            return False
        if now >= self.fresh_until and now < self.writing_until:
            return False
        if now >= self.fresh_until:
            self.writing_until = now + WRITING_S
        return True


class SharedPrefixes:
    """The beginnings that one client has sent, the least recently used forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Prefix] = OrderedDict()

    def marked(self, body: Json) -> tuple[Json, Prefix | None]:
        """The body of a messages call, with its longest shared beginning marked, and what to tell of the reply.

        A beginning is the system prompt, or all before the last turn. `body` itself is left as it is.
        """
        system, (*before, last) = body.get("system", ""), body["messages"]
        size = len(system) + sum(len(turn["content"]) for turn in before)
        if size < MIN_CHARS:
            return body, None
        rest = _digest(last)
        if before and (prefix := self._continued((system, before), body, rest)).wants_mark():
            *few, end = before
            block = {"type": "text", "text": end["content"], "cache_control": MARK}
            return {**body, "messages": [*few, {**end, "content": [block]}, last]}, prefix
        if len(system) < MIN_CHARS:
            return body, None
        rest = _digest(body["messages"])
        if (prefix := self._continued((system,), body, rest)).wants_mark():
            return {**body, "system": [{"type": "text", "text": system, "cache_control": MARK}]}, prefix
        return body, None

    def _continued(self, beginning: tuple[Any, ...], body: Json, rest: bytes) -> Prefix:
        """The prefix, now also seen with this continuation. A reply's schema is sent ahead of it, so it counts."""
        key = _digest((beginning, body.get("output_config")))
        prefix = self._known.setdefault(key, Prefix())
        self._known.move_to_end(key)
        if len(prefix.continued) < SHARED_BY:
            prefix.continued.add(rest)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return prefix


def _digest(part: Any) -> bytes:
    return hashlib.blake2b(orjson.dumps(part), digest_size=16).digest()
