"""Backend `anthropic`: Claude through the official SDK.

The API takes no temperature, top_p or seed, and gives no logprobs. So a choice is asked for as JSON, and its
probabilities are *stated* or counted from samples; see `cai.models.stated`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson
from anthropic import (
    APIConnectionError,
    APIStatusError,
    AsyncAnthropic,
    DefaultAioHttpClient,
    NotFoundError,
    Timeout,
)
from httpx2 import Limits, Response

from cai.config import ModelConfig
from cai.models.base import Completion, Request, Usage, require_logprobs
from cai.models.chat_format import (
    BROKEN_PROMISES,
    Json,
    answering_model,
    broken_promise,
    decode,
    said_text,
    tokens_of,
)
from cai.models.check import KEY_ENV, Answering, Say, api_key, check_sampling, require_served, silent
from cai.models.circuit import circuit_of
from cai.models.connections import clean
from cai.models.cost import cost
from cai.models.failures import connection_failure, http_failure
from cai.models.pace import pacer_of
from cai.models.retry import CONNECT_TIMEOUT_S, KEEP_ALIVE_S, RetryPolicy
from cai.models.shared_prefix import SharedPrefixes
from cai.models.stated import as_json, read_json
from cai.models.turns import NOTHING, turn_tokens
from cai.rows import FinishReason

HOSTED = "api.anthropic.com"
FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class AnthropicModel:
    """A chat model behind Anthropic's messages API."""

    def __init__(self, config: ModelConfig, endpoint: str | None, say: Say = silent) -> None:
        key = api_key(config)
        self._config = config
        self._client = AsyncAnthropic(
            api_key=key,
            base_url=endpoint,
            max_retries=0,
            timeout=Timeout(config.timeout_s, connect=CONNECT_TIMEOUT_S),
            http_client=clean(
                DefaultAioHttpClient(
                    limits=Limits(max_connections=config.max_concurrency, keepalive_expiry=KEEP_ALIVE_S),
                    follow_redirects=False,  # the key would go along
                )
            ),
        )
        self._endpoint = str(self._client.base_url)
        self._policy = RetryPolicy(
            config.model,
            self._endpoint,
            timeout_s=config.timeout_s,
            deadline_s=config.deadline_s,
            key=key,
            key_env=config.api_key_env or KEY_ENV["anthropic"],
            pacer=partial(pacer_of, config, self._endpoint),
            circuit=partial(circuit_of, config, self._endpoint),
            canary=self._attempt,
            say=say,
        )
        self._answering = Answering(config.model, say)
        self._prefixes = SharedPrefixes()
        self._turns = NOTHING if urlsplit(self._endpoint).hostname == HOSTED else turn_tokens(config)

    @property
    def identity(self) -> str:
        """Backend and model name."""
        return f"anthropic:{self._config.model}"

    async def complete(self, request: Request) -> Completion:
        """Answer one request. Raises ProviderError; ConfigError for temperature, top_p and method logprobs."""
        check_sampling(self._config, request.temperature, request.top_p)
        require_logprobs(self._config, request.method)
        if request.choices:
            return read_json(await self.complete(as_json(request)), request)
        sent = self._turns.sent(request)
        body, prefix = self._prefixes.marked(message_body(sent.request, self._config.model))
        payload = orjson.dumps(body)
        completion = await self._policy.call(lambda: self._once(payload), request)
        if prefix is not None:
            prefix.answered(completion.usage)
        return sent.answered(completion)

    async def _attempt(self, request: Request) -> Completion:
        return await self._once(orjson.dumps(message_body(request, self._config.model)))

    async def _once(self, payload: bytes) -> Completion:
        sent = self._policy.pacer.sent
        try:
            raw = await self._client.post("/v1/messages", cast_to=Response, content=payload)
        except APIStatusError as error:
            self._policy.pacer.heed(error.response.headers, sent)
            raise http_failure(error.status_code, error.response.headers, error.response.text) from error
        except APIConnectionError as error:
            raise connection_failure(error) from error
        self._policy.pacer.heed(raw.headers, sent)
        completion = read_message(raw.content, self._config)
        self._answering.heard(completion.model)
        return completion

    async def probe(self) -> None:
        """List the models: a free call. Raises ProviderError: unreachable, auth or not_found."""

        async def served() -> list[str]:
            model = self._config.model
            with sdk_failures():
                names = [found.id async for found in self._client.models.list(limit=1000)]
                if model in names:
                    return names
                try:  # an alias is not listed, but can be looked up
                    await self._client.models.retrieve(model)
                except NotFoundError as error:
                    if "not_found_error" not in error.response.text:
                        raise
                else:
                    names.append(model)
            return names

        require_served(self._config.model, self._endpoint, await self._policy.call(served))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


@contextmanager
def sdk_failures() -> Iterator[None]:
    """What the SDK raises, as what it means: AttemptFailed."""
    try:
        yield
    except APIStatusError as error:
        raise http_failure(error.status_code, error.response.headers, error.response.text) from error
    except APIConnectionError as error:
        raise connection_failure(error) from error


def message_body(request: Request, model: str) -> dict[str, Any]:
    """The body of a messages call: system turns go to `system`, a schema to `output_config`."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages if m.role != "system"],
    }
    if system := [m.content for m in request.messages if m.role == "system"]:
        body["system"] = "\n\n".join(system)
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.schema_ is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": request.schema_}}
    return body


def read_message(raw: bytes, config: ModelConfig) -> Completion:
    """A messages reply as a Completion. Raises AttemptFailed (malformed)."""
    reply = decode(raw)
    try:
        text = "".join(said_text(block["text"]) for block in reply["content"] if block["type"] == "text")
        finish = FINISH[reply["stop_reason"]]
        usage = _usage(reply.get("usage") or {})
    except BROKEN_PROMISES as error:
        raise broken_promise(reply, "is no message", error) from error
    return Completion(
        text=text,
        finish_reason=finish,
        usage=usage,
        model=answering_model(reply, config.model),
        cost=cost(usage, config.model, config.price),
    )


def _usage(usage: Json) -> Usage:
    cached = tokens_of(usage, "cache_read_input_tokens")
    written = tokens_of(usage, "cache_creation_input_tokens")
    return Usage(
        prompt_tokens=tokens_of(usage, "input_tokens") + cached + written,
        completion_tokens=tokens_of(usage, "output_tokens"),
        cached_tokens=cached,
        cached_write_tokens=written,
    )
