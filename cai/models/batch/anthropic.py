"""Anthropic's message batches: the requests travel in one call, the results are streamed once all have ended.

A batch carries nothing of ours but the `custom_id`s of its requests, and those are told only with the results. So
where it is not known whether a batch was accepted, every batch made since with as many requests is waited for, and
the one whose results carry our ids is it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import orjson

from cai.config import ModelConfig
from cai.models.anthropic import AnthropicModel, message_body, read_message, sdk_failures
from cai.models.base import Completion, Request, require_logprobs
from cai.models.batch.ledger import Batch
from cai.models.batch.provider import CLOCKS_S, Entry, Result, Status, discounted, lines, policy_of
from cai.models.chat_format import Json, decode
from cai.models.check import KEY_ENV, api_key, check_sampling
from cai.models.failures import AttemptFailed, http_failure
from cai.models.stated import as_json, read_json

T = TypeVar("T")
PAGE = 1000
STATUS = {  # HTTP status of an error type, as the live API pairs them
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBatches(AnthropicModel):
    """Anthropic's message batches for one model."""

    label = "anthropic"
    most = 100_000
    most_bytes = 256_000_000
    marks_batches = False

    def __init__(self, config: ModelConfig, endpoint: str | None) -> None:
        super().__init__(config, endpoint)
        key_env = config.api_key_env or KEY_ENV["anthropic"]
        self._patient = policy_of(config.model, self._endpoint, api_key(config), key_env)

    def check(self, request: Request) -> None:
        """Raises ConfigError for temperature, top_p and method logprobs."""
        check_sampling(self._config, request.temperature, request.top_p)
        require_logprobs(self._config, request.method)

    def line(self, entry: Entry) -> bytes:
        """A request as it stands in the list."""
        return orjson.dumps(self._request(entry))

    async def prepare(self, batch: Batch, entries: Sequence[Entry]) -> list[Json]:
        """The list of requests; nothing is sent."""
        return [self._request(entry) for entry in entries]

    async def create(self, batch: Batch, prepared: Any) -> str:
        """Send the requests."""
        with sdk_failures():
            made = await self._client.messages.batches.create(requests=prepared, timeout=None)
        return made.id

    async def find(self, batch: Batch) -> list[str]:
        """Batches of as many requests, made since; they are listed newest first."""
        found = []
        with sdk_failures():
            async for one in self._client.messages.batches.list(limit=PAGE):
                if one.created_at.timestamp() < batch.made - CLOCKS_S:
                    break
                if sum(one.request_counts.model_dump().values()) == batch.size:
                    found.append(one.id)
        return found

    async def status(self, id_: str) -> Status:
        """How far the batch is; requests are only counted as done once all are."""
        with sdk_failures():
            batch = await self._client.messages.batches.retrieve(id_)
        counts = batch.request_counts
        return Status(
            batch.processing_status == "ended",
            counts.succeeded + counts.errored + counts.canceled + counts.expired,
        )

    async def results(self, id_: str) -> AsyncIterator[Result]:
        """The lines of the results."""
        with sdk_failures():
            batches = self._client.messages.batches
            if (await batches.retrieve(id_)).results_url is None:
                raise AttemptFailed("not_found", f"the results of batch {id_} are not kept any more")
            async with batches.with_streaming_response.results(id_) as stream:
                async for line in lines(stream.iter_bytes()):
                    yield _result(decode(line))

    def read(self, reply: bytes, request: Request) -> Completion:
        """A message as the live model reads it, at the batch price."""
        completion = discounted(read_message(reply, self._config), self._config.backend)
        completion = self._turns.sent(request).answered(completion)
        return read_json(completion, request) if request.choices else completion

    async def call(self, once: Callable[[], Awaitable[T]]) -> T:
        """Attempts under the patient retry policy."""
        return await self._patient.call(once)

    def _request(self, entry: Entry) -> Json:
        asked = as_json(entry.request) if entry.request.choices else entry.request
        sent = self._turns.sent(asked).request
        return {"custom_id": entry.key, "params": message_body(sent, self._config.model)}


def _result(line: Json) -> Result:
    """A line of the results; one that breaks the protocol fails the reading. Raises AttemptFailed."""
    try:
        key, result = line["custom_id"], line["result"]
        if result["type"] in ("expired", "canceled"):
            return Result(key)
        if result["type"] == "succeeded":
            return Result(key, orjson.dumps(result["message"]))
        error = result["error"]["error"]
        body = orjson.dumps(result["error"]).decode()
        return Result(key, failure=http_failure(STATUS.get(error["type"], 500), {}, body))
    except (KeyError, TypeError, AttributeError) as error:
        raise AttemptFailed("malformed", f"a line of the results is none ({error!r})") from error
