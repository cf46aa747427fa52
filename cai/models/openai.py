"""Backend `openai`: the hosted API, or a proxy of it, through the official SDK.

A choice is read from the logprobs of the answer's first token. Models that give none (OpenAI's reasoning
families) need `logprobs: false` in their config: they then state an answer and a confidence as JSON. So is a
choice asked for wherever the request wants it stated, or as one of several samples.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from httpx2 import Limits
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAioHttpClient, Timeout

from cai.config import ModelConfig
from cai.models.base import Completion, Request, require_logprobs
from cai.models.chat_format import chat_body, read_chat
from cai.models.check import KEY_ENV, api_key, require_served
from cai.models.retry import CONNECT_TIMEOUT_S, RetryPolicy, connection_failure, http_failure
from cai.models.stated import as_json, read_json

HOSTED = "api.openai.com"


class OpenAIModel:
    """A chat model behind OpenAI's chat-completions API."""

    def __init__(self, config: ModelConfig, endpoint: str | None) -> None:
        key = api_key(config)
        self._config = config
        self._client = AsyncOpenAI(
            api_key=key,
            base_url=endpoint,
            max_retries=0,
            timeout=Timeout(config.timeout_s, connect=CONNECT_TIMEOUT_S),
            http_client=DefaultAioHttpClient(limits=Limits(max_connections=config.max_concurrency)),
        )
        self._endpoint = str(self._client.base_url)
        hosted = urlsplit(self._endpoint).hostname == HOSTED
        self._limit_field = "max_completion_tokens" if hosted else "max_tokens"
        self._policy = RetryPolicy(
            config.model,
            self._endpoint,
            timeout_s=config.timeout_s,
            deadline_s=config.deadline_s,
            key=key,
            key_env=config.api_key_env or KEY_ENV["openai"],
        )

    @property
    def identity(self) -> str:
        """Backend and model name, and that choices are stated where they are."""
        return f"openai:{self._config.model}" + ("" if self._config.logprobs else ":stated")

    async def complete(self, request: Request) -> Completion:
        """Answer one request. Raises ProviderError, or ConfigError where it wants logprobs that are not given."""
        require_logprobs(self._config, request.method)
        if request.choices and (request.method in ("stated", "samples") or not self._config.logprobs):
            return read_json(await self.complete(as_json(request)), request)
        body = chat_body(request, self._config.model, self._limit_field)
        return await self._policy.call(lambda: self._once(body, request))

    async def _once(self, body: dict[str, object], request: Request) -> Completion:
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**body)  # type: ignore[call-overload]
        except APIStatusError as error:
            raise http_failure(error.status_code, error.response.headers, error.response.text) from error
        except APIConnectionError as error:
            raise connection_failure(error) from error
        return read_chat(raw.content, request, self._config.model, self._config.price)

    async def probe(self) -> None:
        """List the served models: a free call. Raises ProviderError: unreachable, auth or not_found."""

        async def names() -> list[str]:
            try:
                return [model.id async for model in self._client.models.list()]
            except APIStatusError as error:
                raise http_failure(error.status_code, error.response.headers, error.response.text) from error
            except APIConnectionError as error:
                raise connection_failure(error) from error

        require_served(self._config.model, self._endpoint, await self._policy.call(names))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
