"""One timer for the time limits of many attempts.

Every attempt has a limit of minutes and nearly none ever reaches it, yet each would set up an event loop's timer
and take it down again. So only the earliest limit has a timer. What happens to an attempt that is
late is asyncio's: its timeout is set to now, and the rules of `asyncio.timeout` hold.
"""

from __future__ import annotations

import asyncio


class Deadlines:
    """Times at which the timeouts of attempts in flight run out, on the running event loop's clock."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings = 0.0

    def add(self, timeout: asyncio.Timeout, end: float) -> None:
        """Let a timeout, entered without a time, run out at `end`; `remove` takes this back."""
        self._ends[timeout] = end
        if self._timer is None or end < self._rings:
            self._set(end)

    def remove(self, timeout: asyncio.Timeout) -> None:
        """Forget a timeout, whether it ran out or not; before its block is left."""
        self._ends.pop(timeout, None)
        if not self._ends and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, end: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = end
        self._timer = asyncio.get_running_loop().call_at(end, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for timeout in [timeout for timeout, end in self._ends.items() if end <= now]:
            del self._ends[timeout]
            timeout.reschedule(now)
        if self._ends:
            self._set(min(self._ends.values()))
