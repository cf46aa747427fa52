"""What the batch APIs of two providers have in common, as `cai.models.batch.follow` needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import aiohttp
from httpx2 import HTTPError

from cai.models.base import ChatModel, Completion, Request
from cai.models.batch.ledger import Batch
from cai.models.cost import batch_discount
from cai.models.failures import AttemptFailed
from cai.models.retry import RetryPolicy

T = TypeVar("T")
DEADLINE_S = 3600.0  # of a call to a batch API with its retries; a run that waits for a day can wait for this
TRANSFER_S = 3600.0  # of one attempt to send or read the requests of a batch
CLOCKS_S = 300.0  # how far this machine's clock and the provider's may be apart


class Entry(NamedTuple):
    """A request of a batch under its journal key, which is its `custom_id`."""

    key: str
    request: Request


class Status(NamedTuple):
    """How far a batch is. `failure`: why it was refused as a whole."""

    ended: bool
    done: int
    failure: str | None = None


class Result(NamedTuple):
    """What came of a request: the bytes of the reply, or a failure, or neither where its turn never came."""

    key: str
    reply: bytes | None = None
    failure: AttemptFailed | None = None


class Provider(ChatModel, Protocol):
    """A batch API. Every method but `call` makes one attempt, and raises AttemptFailed.

    `label`: the provider's name. `most`, `most_bytes`: requests, and bytes of them, that one batch may have.
    `marks_batches`: a batch at the provider carries our name of it, so that `find` names it for certain.
    """

    label: str
    most: int
    most_bytes: int
    marks_batches: bool

    def check(self, request: Request) -> None:
        """Raises ConfigError for what the model cannot be asked."""

    def line(self, entry: Entry) -> bytes:
        """The request as it stands in a batch."""

    async def probe(self) -> None:
        """A free call. Raises ProviderError."""

    async def prepare(self, batch: Batch, entries: Sequence[Entry]) -> Any:
        """What has to be there before the batch is created, as `create` takes it. May be done twice."""

    async def create(self, batch: Batch, prepared: Any) -> str:
        """Submit the batch; returns the provider's id."""

    async def find(self, batch: Batch) -> list[str]:
        """Ids of batches that may be this one, newest first."""

    async def status(self, id_: str) -> Status:
        """How far a batch is."""

    def results(self, id_: str) -> AsyncIterator[Result]:
        """The results of an ended batch, in any order."""

    def read(self, reply: bytes, request: Request) -> Completion:
        """A reply as the live model would read it, at the batch price. Raises AttemptFailed (malformed)."""

    async def call(self, once: Callable[[], Awaitable[T]]) -> T:
        """Attempts under the retry policy. Raises ProviderError."""


def policy_of(model: str, endpoint: str, key: str, key_env: str) -> RetryPolicy:
    """The retry policy of calls to a batch API: patient, because nothing but the run waits for them."""
    return RetryPolicy(model, endpoint, timeout_s=TRANSFER_S, deadline_s=DEADLINE_S, key=key, key_env=key_env)


def discounted(completion: Completion, backend: str) -> Completion:
    """The completion at the batch price; the price in a config is the live one too."""
    if completion.cost is None:
        return completion
    return completion.model_copy(update={"cost": completion.cost * (1 - batch_discount(backend))})


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a JSONL stream. Only a newline ends one: JSON text may hold any other line separator as it is."""
    rest = b""
    try:
        async for chunk in chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
    except (HTTPError, aiohttp.ClientError) as error:
        raise AttemptFailed("transient", f"the results broke off: {error or type(error).__name__}") from error
    if rest.strip():
        yield rest
