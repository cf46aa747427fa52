"""An event loop whose clock jumps to whatever is due next: hours of waiting pass at once, and always the same way.

    with virtual_loop() as loop:
        loop.run_until_complete(...)

Only for work without sockets: what happens outside the loop takes no time on this clock.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TICK_S = 1e-7  # a clock that stands still would never reach what is due a rounding error from now


class _Skipping(selectors.DefaultSelector):
    """Does not wait for its timeout, but counts it as passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Events that are there already; `timeout` is added to the clock."""
        self.passed += max(timeout or 0.0, 0.0) + TICK_S
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, from 0 s."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._skipping.passed


@contextmanager
def virtual_loop() -> Iterator[VirtualLoop]:
    """A loop on virtual time, closed at the end."""
    loop = VirtualLoop()
    try:
        yield loop
    finally:
        loop.close()
