"""Several vLLM servers with the same model as one: each call goes to the replica with the fewest in flight.

A replica that fails again and again leaves. The calls that it lost move on to another at once, within the
same attempt, so that no row waits out another's failure; it is asked now and then whether it serves the model
again, and comes back when it does. Only when none is left does a call fail as it does at a single endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cai.config import ModelConfig
from cai.models.base import attempts
from cai.models.check import Say, silent
from cai.models.failures import PASSING, AttemptFailed
from cai.models.vllm import VllmModel

FAILURES = 3  # in a row, after which a replica leaves
CHAT = "/v1/chat/completions"
PROBE_FIRST_S = 0.5
PROBE_CAP_S = 15.0
PROBE_TIMEOUT_S = 10.0
SLOW = 0.9  # share of timeout_s that a cancelled call must have taken for its replica to be blamed


@dataclass
class _Replica:
    """One of the servers. `failures`: in a row. `back`: the task that waits for it to come back; None: it is in."""

    client: VllmModel
    in_flight: int = 0
    served: int = 0
    failures: int = 0
    back: asyncio.Task[None] | None = field(default=None, repr=False)


class ReplicatedModel(VllmModel):
    """A chat model behind several vLLM servers. `key`: the one for all of them, "" for none."""

    def __init__(self, config: ModelConfig, endpoints: Sequence[str], key: str, say: Say = silent) -> None:
        super().__init__(config, ", ".join(endpoints), key, say)
        self._replicas = [_Replica(VllmModel(config, endpoint, key)) for endpoint in endpoints]
        self._last: AttemptFailed | None = None

    async def send(self, method: str, path: str, payload: bytes | None = None) -> bytes:
        """One exchange with whichever replica gives one. Raises AttemptFailed where none does."""
        untried = list(self._replicas)
        while ready := [replica for replica in untried if replica.back is None]:
            replica = min(ready, key=lambda one: (one.in_flight, one.served))
            if len(untried) < len(self._replicas) and path == CHAT:
                _sent_again(self._last)
            untried.remove(replica)
            try:
                return await self._ask(replica, method, path, payload)
            except AttemptFailed as failure:
                if failure.why not in PASSING:
                    raise
                self._last = failure
        last = self._last or AttemptFailed("refused", "all replicas are out")
        detail = f"none of {len(self._replicas)} replicas answers; the last one: {last}"
        raise AttemptFailed(last.why, detail, last.retry_after, congested=last.congested) from last

    async def _ask(self, replica: _Replica, method: str, path: str, payload: bytes | None) -> bytes:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        replica.in_flight += 1
        try:
            raw = await replica.client.send(method, path, payload)
            if raw.startswith(
                b"<"
            ):  # it comes so fast that this replica would always seem to have least to do
                raise AttemptFailed("malformed", f"a page is no reply: {raw[:60].decode(errors='replace')}")
        except AttemptFailed as failure:
            if failure.why in ("refused", "transient", "malformed"):
                self._blame(replica)
            raise
        except (
            asyncio.CancelledError
        ):  # by the limit of the attempt, or because nobody wants the reply any more
            if loop.time() - begun >= SLOW * self._config.timeout_s:
                self._blame(replica)
            raise
        finally:
            replica.in_flight -= 1
        replica.failures = 0
        replica.served += 1
        return raw

    def _blame(self, replica: _Replica) -> None:
        replica.failures += 1
        if replica.failures >= FAILURES and replica.back is None:
            replica.back = asyncio.create_task(self._wait_for(replica))

    async def _wait_for(self, replica: _Replica) -> None:
        """Ask a replica that left until it serves the model, then let it in again."""
        pause = PROBE_FIRST_S
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, PROBE_CAP_S)
            with contextlib.suppress(AttemptFailed, TimeoutError):
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    if self._served in await replica.client.served():
                        break
        # not 0: at the first sign that it was wrong, it leaves again
        replica.failures, replica.back = FAILURES - 1, None

    async def probe(self) -> None:
        """Ask every replica for the models that it serves. Raises ProviderError: unreachable, auth or not_found."""
        for replica in self._replicas:
            await replica.client.probe()

    async def close(self) -> None:
        """Close the connections to all replicas."""
        waits = [replica.back for replica in self._replicas if replica.back is not None]
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        for replica in self._replicas:
            await replica.client.close()


def _sent_again(failure: AttemptFailed | None) -> None:
    """Count the exchange that was lost at one replica, and the one that begins at another. Raises BudgetError."""
    told = attempts.get()
    if told is not None and failure is not None:
        told.begins()
        told.failed(failure.why)
