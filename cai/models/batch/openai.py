"""OpenAI's batch API: a JSONL file is uploaded, a batch of chat completions is made of it, its results are two files.

The batch carries our name of it as metadata, so that it is found again by that name alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

import orjson

from cai.config import ModelConfig
from cai.models.base import Completion, Request, require_logprobs
from cai.models.batch.ledger import Batch
from cai.models.batch.provider import CLOCKS_S, Entry, Result, Status, discounted, lines, policy_of
from cai.models.chat_format import Json, chat_body, decode, read_chat
from cai.models.check import KEY_ENV, api_key
from cai.models.failures import AttemptFailed, http_failure
from cai.models.openai import OpenAIModel, sdk_failures
from cai.models.stated import as_json, read_json

T = TypeVar("T")
PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MARK = "cai_batch"  # the metadata field with our name of a batch
PAGE = 100
ENDED = ("completed", "failed", "expired", "cancelled")
NEVER_RAN = ("batch_expired", "batch_cancelled")
QUEUE_FULL = "token_limit_exceeded"


class OpenAIBatches(OpenAIModel):
    """OpenAI's batch API for one model."""

    label = "openai"
    most = 50_000
    most_bytes = 200_000_000
    marks_batches = True

    def __init__(self, config: ModelConfig, endpoint: str | None) -> None:
        super().__init__(config, endpoint)
        key_env = config.api_key_env or KEY_ENV["openai"]
        self._patient = policy_of(config.model, self._endpoint, api_key(config), key_env)

    def check(self, request: Request) -> None:
        """Raises ConfigError where the request wants logprobs that are not given."""
        require_logprobs(self._config, request.method)

    def line(self, entry: Entry) -> bytes:
        """A line of the file to upload."""
        asked = as_json(entry.request) if self.states(entry.request) else entry.request
        body = chat_body(self._turns.sent(asked).request, self._config.model, self._limit_field)
        return orjson.dumps({"custom_id": entry.key, "method": "POST", "url": PATH, "body": body})

    async def prepare(self, batch: Batch, entries: Sequence[Entry]) -> str:
        """Upload the requests; returns the file's id."""
        with tempfile.TemporaryFile() as file, sdk_failures():
            for entry in entries:
                file.write(self.line(entry) + b"\n")
            file.seek(0)
            uploaded = await self._client.files.create(
                file=(f"cai-{batch.name}.jsonl", file), purpose="batch", timeout=None
            )
        return uploaded.id

    async def create(self, batch: Batch, prepared: str) -> str:
        """Make a batch of the uploaded file."""
        with sdk_failures():
            made = await self._client.batches.create(
                input_file_id=prepared,
                endpoint=PATH,
                completion_window="24h",
                metadata={MARK: batch.name},
            )
        return made.id

    async def find(self, batch: Batch) -> list[str]:
        """The batch with our name; they are listed newest first, so those made long before it are not looked at."""
        with sdk_failures():
            async for found in self._client.batches.list(limit=PAGE):
                if (found.metadata or {}).get(MARK) == batch.name:
                    return [found.id]
                if found.created_at < batch.made - CLOCKS_S:
                    break
        return []

    async def status(self, id_: str) -> Status:
        """How far the batch is."""
        with sdk_failures():
            batch = await self._client.batches.retrieve(id_)
        counts = batch.request_counts
        done = counts.completed + counts.failed if counts else 0
        if batch.status != "failed":
            return Status(batch.status in ENDED, done)
        problems = (batch.errors.data if batch.errors else None) or []
        first = problems[0] if problems else None
        text = f"{first.message} ({first.code})" if first else "no reason is given"
        if first and first.code == QUEUE_FULL:
            text += "; the account's queue is full: lower max_concurrency, or wait for other batches to end"
        return Status(True, done, text)

    async def results(self, id_: str) -> AsyncIterator[Result]:
        """The lines of the batch's output file, then of its error file."""
        with sdk_failures():
            batch = await self._client.batches.retrieve(id_)
            for file in (batch.output_file_id, batch.error_file_id):
                if file is not None:
                    async with self._client.files.with_streaming_response.content(file) as stream:
                        async for line in lines(stream.iter_bytes()):
                            yield _result(decode(line))

    def read(self, reply: bytes, request: Request) -> Completion:
        """A chat completion as the live model reads it, at the batch price."""
        stated = self.states(request)
        asked = as_json(request) if stated else request
        completion = discounted(
            read_chat(reply, asked, self._config.model, self._config.price), self._config.backend
        )
        completion = self._turns.sent(request).answered(completion)
        return read_json(completion, request) if stated else completion

    async def call(self, once: Callable[[], Awaitable[T]]) -> T:
        """Attempts under the patient retry policy."""
        return await self._patient.call(once)


def _result(line: Json) -> Result:
    """A line of either file; one that breaks the protocol fails the reading. Raises AttemptFailed."""
    try:
        key, error, response = line["custom_id"], line.get("error") or {}, line.get("response")
        if not response:
            if error["code"] in NEVER_RAN:
                return Result(key)
            return Result(key, failure=AttemptFailed("transient", _said(error)))
        if response["status_code"] == 200:
            return Result(key, orjson.dumps(response["body"]))
        body = orjson.dumps(response.get("body") or error).decode()
        return Result(key, failure=http_failure(response["status_code"], {}, body))
    except (KeyError, TypeError, AttributeError) as error:
        raise AttemptFailed("malformed", f"a line of the results is none ({error!r})") from error


def _said(error: dict[str, Any]) -> str:
    return f"{error.get('message') or 'no reason is given'} ({error['code']})"
