"""Backend `openai`: the hosted API, or a proxy of it, through the official SDK.

A choice is read from the logprobs of the answer's first token. Models that give none (OpenAI's reasoning
families) need `logprobs: false` in their config: they then state an answer and a confidence as JSON. So is a
choice asked for wherever the request wants it stated, or as one of several samples.

The SDK is handed the finished bytes of a call and gives back the raw response: to walk the body through its
types, and the reply through its models, would take a good part of the CPU time of the whole call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import orjson
from httpx2 import Limits, Response
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAioHttpClient, Timeout

from cai.config import ModelConfig
from cai.models.base import Completion, Request, require_logprobs
from cai.models.chat_format import chat_body, read_chat
from cai.models.check import KEY_ENV, Answering, Say, api_key, require_served, silent
from cai.models.circuit import circuit_of
from cai.models.connections import clean
from cai.models.failures import connection_failure, http_failure
from cai.models.pace import pacer_of
from cai.models.retry import CONNECT_TIMEOUT_S, KEEP_ALIVE_S, RetryPolicy
from cai.models.stated import as_json, read_json
from cai.models.turns import NOTHING, turn_tokens

HOSTED = "api.openai.com"


class OpenAIModel:
    """A chat model behind OpenAI's chat-completions API."""

    def __init__(self, config: ModelConfig, endpoint: str | None, say: Say = silent) -> None:
        key = api_key(config)
        self._config = config
        self._client = AsyncOpenAI(
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
        hosted = urlsplit(self._endpoint).hostname == HOSTED
        self._limit_field = "max_completion_tokens" if hosted else "max_tokens"
        self._turns = NOTHING if hosted else turn_tokens(config)
        self._policy = RetryPolicy(
            config.model,
            self._endpoint,
            timeout_s=config.timeout_s,
            deadline_s=config.deadline_s,
            key=key,
            key_env=config.api_key_env or KEY_ENV["openai"],
            pacer=partial(pacer_of, config, self._endpoint),
            circuit=partial(circuit_of, config, self._endpoint),
            canary=self._attempt,
            say=say,
        )
        self._answering = Answering(config.model, say)

    @property
    def identity(self) -> str:
        """Backend and model name, and that choices are stated where they are."""
        return f"openai:{self._config.model}" + ("" if self._config.logprobs else ":stated")

    def states(self, request: Request) -> bool:
        """True where a choice is asked for as JSON, and not by the answer token's logprobs."""
        as_asked = request.method in ("stated", "samples") or not self._config.logprobs
        return bool(request.choices) and as_asked

    async def complete(self, request: Request) -> Completion:
        """Answer one request. Raises ProviderError, or ConfigError where it wants logprobs that are not given."""
        require_logprobs(self._config, request.method)
        if self.states(request):
            return read_json(await self.complete(as_json(request)), request)
        sent = self._turns.sent(request)
        payload = self._payload(sent.request)
        return sent.answered(await self._policy.call(lambda: self._once(payload, request), request))

    def _payload(self, request: Request) -> bytes:
        return orjson.dumps(chat_body(request, self._config.model, self._limit_field))

    async def _attempt(self, request: Request) -> Completion:
        return await self._once(self._payload(request), request)

    async def _once(self, payload: bytes, request: Request) -> Completion:
        sent = self._policy.pacer.sent
        try:
            raw = await self._client.post("/chat/completions", cast_to=Response, content=payload)
        except APIStatusError as error:
            self._policy.pacer.heed(error.response.headers, sent)
            raise http_failure(error.status_code, error.response.headers, error.response.text) from error
        except APIConnectionError as error:
            raise connection_failure(error) from error
        self._policy.pacer.heed(raw.headers, sent)
        completion = read_chat(raw.content, request, self._config.model, self._config.price)
        self._answering.heard(completion.model)
        return completion

    async def probe(self) -> None:
        """List the served models: a free call. Raises ProviderError: unreachable, auth or not_found."""

        async def names() -> list[str]:
            with sdk_failures():
                return [model.id async for model in self._client.models.list()]

        require_served(self._config.model, self._endpoint, await self._policy.call(names))

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
