"""Whether an endpoint answers at all: where it does not, calls wait for it instead of failing one after the other.

A call that fails by itself is dropped with its reason. But where attempts of several calls fail in a row, and none
succeeds in between, the endpoint is in trouble, and going on would turn the whole dataset into drops. So the circuit
opens: calls wait, spending neither attempts nor their deadline, while one tiny request at a time asks the endpoint
whether it is there, with growing pauses. Any answer closes the circuit. Where none comes for `patience_s`, every call
that waits fails for good, which stops the run with all its replies kept.

The tiny request also tells an endpoint in trouble from a set of rows that it cannot answer: it does not depend on the
rows. Once it was answered, it takes twice as many failures to open the circuit again, until a call succeeds.
A 429 does not count, for the pace of calls sees to that, unless it asks for a longer wait than anybody has.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from cai.config import ModelConfig
from cai.models.failures import AttemptFailed

FAILURES = 5  # attempts in a row, with no success in between …
CALLS = 3  # … of at least so many calls; nobody listening is never a call's own fault
PAUSE_S = 0.25  # before the endpoint is asked for the first time; doubled every time
PAUSE_CAP_S = 15.0
SPREAD = 0.3  # share of a pause that is left to chance, so that several runs do not ask in step

Probe = Callable[[], Awaitable[object]]


class Circuit:
    """Counts failures of one endpoint, and makes calls wait while it is `open`.

    `patience_s`: how long an endpoint that does not answer is waited for. `own`: where nobody listens any more, nobody
    but this run can start it again, so that is not waited for. `well`: the last attempt that counts has
    succeeded, so a further success need not be told. `reached`: somebody has listened there before. `failures`: in a
    row, of those that count.
    """

    def __init__(self, patience_s: float, *, own: bool = False) -> None:
        self.open = False
        self.well = False
        self.reached = False
        self._patience_s, self._own = patience_s, own
        self.failures = 0
        self._enough = FAILURES
        self._calls: set[int] = set()
        self._since = 0.0
        self._last: AttemptFailed | None = None
        self._waiting: dict[asyncio.Future[bool], Probe] = {}
        self._asking: asyncio.Task[None] | None = None

    def succeeded(self) -> None:
        """An attempt succeeded; need only be told while not `well`."""
        self.well = self.reached = True
        self.failures, self._enough = 0, FAILURES
        self._calls.clear()
        if self._asking is not None:
            self._asking.cancel()
        self._end(lambda turn: turn.set_result(False))

    def failed(self, call: int, failure: AttemptFailed) -> bool:
        """An attempt of the call with this number failed; returns whether that has opened the circuit."""
        self.well = False
        if not self._counts(failure):
            return False
        if not self.failures:
            self._since = asyncio.get_running_loop().time()
        self.failures += 1
        self._last = failure
        if len(self._calls) < CALLS:
            self._calls.add(call)
        several = len(self._calls) >= CALLS or failure.why == "refused"
        opens = not self.open and several and self.failures >= self._enough
        self.open |= opens
        return opens

    async def wait(self, probe: Probe) -> bool:
        """Wait until the endpoint answers; returns whether it had been out, and not only some calls' rows at fault.

        `probe`: asks it in one attempt. Raises AttemptFailed (broken) where it does not answer for `patience_s`.
        """
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = probe
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            return await turn
        finally:
            self._waiting.pop(turn, None)
            if not self._waiting and self._asking is not None:  # nobody is left to ask for
                self._asking.cancel()
                self._asking = None

    def _counts(self, failure: AttemptFailed) -> bool:
        """Whether a failure may be the endpoint's."""
        if failure.why == "refused":
            # where nobody has ever listened, waiting is not likely to help
            return self.reached and not self._own
        return failure.why in ("transient", "malformed") or self._too_long(failure)

    def _too_long(self, failure: AttemptFailed) -> bool:
        return failure.why == "rate_limit" and (failure.retry_after or 0.0) > self._patience_s

    async def _ask(self) -> None:
        """Ask the endpoint until it answers, or for `patience_s`; then let all go on, or fail."""
        loop, pause, tried = asyncio.get_running_loop(), PAUSE_S, 0
        ends = self._since + self._patience_s
        while True:
            await asyncio.sleep(min(pause * random.uniform(1 - SPREAD, 1), max(0.0, ends - loop.time())))
            pause = min(2 * pause, PAUSE_CAP_S)
            try:
                await next(iter(self._waiting.values()))()
            except AttemptFailed as failure:
                if not self._counts(failure) and (self._own or failure.why != "refused"):
                    break  # an answer, if no good one
                self._last, tried = failure, tried + 1
            except Exception as error:
                self._fail(error)
                return
            else:
                break
            if self._too_long(self._last) or loop.time() >= ends:
                self._fail(self._broken(loop.time() - self._since, tried))
                return
        self._enough, self.failures = 2 * self._enough, 0
        self._calls.clear()
        self._end(lambda turn: turn.set_result(tried > 0))

    def _broken(self, seconds: float, tried: int) -> AttemptFailed:
        tried += self.failures
        said = f"{tried} attempts in a row have failed within {seconds:.0f} s; the last one: {self._last}"
        return AttemptFailed("broken", said)

    def _fail(self, error: Exception) -> None:
        """All calls that wait fail; those that come later begin anew."""
        self.failures, self._enough = 0, FAILURES
        self._calls.clear()
        self._end(lambda turn: turn.set_exception(error))

    def _end(self, tell: Callable[[asyncio.Future[bool]], None]) -> None:
        self.open, self._asking = False, None
        for turn in self._waiting:
            if not turn.done():
                tell(turn)


_circuits: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, float], Circuit]] = (
    WeakKeyDictionary()
)


def circuit_of(config: ModelConfig, endpoint: str) -> Circuit:
    """The circuit of a model at an endpoint, one for all its clients in the running event loop."""
    circuits = _circuits.setdefault(asyncio.get_running_loop(), {})
    key = (config.model, endpoint, config.deadline_s)
    if key not in circuits:
        circuits[key] = Circuit(config.deadline_s, own=config.managed is not None)
    return circuits[key]
