"""Backend `vllm`: any running vLLM server, by its OpenAI-compatible API and the extras that a judge needs.

A choice is constrained by the server's grammar, and its probability is asked for by token id: one token,
exactly normalised. A sampled choice is constrained in the same way, a stated one by the schema of its JSON.

Calls to one's own engine are many and short, and the client shares the machine with it; so they go over a
bare aiohttp session, which costs a fraction of the SDK's CPU time for the same bytes.

What a request leaves open (temperature, top_p) the server takes from the model's generation_config.json.
"""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from cai.config import ModelConfig
from cai.errors import ProviderError
from cai.models.base import Completion, Request, require_logprobs
from cai.models.chat_format import TOP_LOGPROBS, ChoiceOf, Json, chat_body, decode, read_chat
from cai.models.check import Answering, Say, require_served, silent
from cai.models.circuit import circuit_of
from cai.models.connections import CleanConnector
from cai.models.failures import AttemptFailed, connection_failure, http_failure
from cai.models.pace import pacer_of
from cai.models.retry import CONNECT_TIMEOUT_S, RetryPolicy
from cai.models.stated import as_json, read_json
from cai.models.turns import TurnTokens, turn_tokens
from cai.models.weights import model_identity, served_name

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class VllmModel:
    """A chat model behind a vLLM server. `key`: "" where the server asks for none."""

    def __init__(self, config: ModelConfig, endpoint: str, key: str, say: Say = silent) -> None:
        self._config = config
        self.endpoint = endpoint
        self._root = endpoint.rstrip("/").removesuffix("/v1")
        self._key = key
        self._session: aiohttp.ClientSession | None = None
        self._token_ids: dict[tuple[str, ...], asyncio.Future[dict[str, str] | None]] = {}
        self._served = served_name(config)
        self._identity = f"vllm:{model_identity(config)}"
        self._policy = RetryPolicy(
            config.model,
            self._root,
            timeout_s=config.timeout_s,
            deadline_s=config.deadline_s,
            key=key,
            key_env=config.api_key_env or "the variable that api_key_env names",
            pacer=partial(pacer_of, config, self._root),
            circuit=partial(circuit_of, config, self._root),
            canary=self._attempt,
            say=say,
        )
        self._answering = Answering(self._served, say)

    @property
    def identity(self) -> str:
        """Backend and model name, or the digest of local weights; and that choices are stated where they are."""
        return self._identity if self._config.logprobs else f"{self._identity}:stated"

    async def complete(self, request: Request) -> Completion:
        """Answer one request. Raises ProviderError, or ConfigError where it wants logprobs that are not given."""
        require_logprobs(self._config, request.method)
        method = request.method or ("logprobs" if self._config.logprobs else "stated")
        if request.choices and method == "stated":
            return read_json(await self.complete(as_json(request)), request)
        sent = self._turns.sent(request)
        body = chat_body(sent.request, self._served, "max_tokens")
        choice_of: ChoiceOf | None = None
        if request.choices:
            body["structured_outputs"] = {"choice": list(request.choices)}
            if tokens := await self._tokens(request.choices):
                body["max_tokens"] = 1
                if body.pop("top_logprobs", None):
                    ids = [int(name.removeprefix("token_id:")) for name in tokens]
                    body |= {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
                    choice_of = tokens.get
        payload = orjson.dumps(body)
        return sent.answered(
            await self._policy.call(lambda: self._once(payload, request, choice_of), request)
        )

    @cached_property
    def _turns(self) -> TurnTokens:
        return turn_tokens(self._config)

    async def _attempt(self, request: Request) -> Completion:
        return await self._once(orjson.dumps(chat_body(request, self._served, "max_tokens")), request, None)

    async def _once(self, payload: bytes, request: Request, choice_of: ChoiceOf | None) -> Completion:
        raw = await self.send("POST", "/v1/chat/completions", payload)
        completion = read_chat(raw, request, self._served, self._config.price, choice_of)
        self._answering.heard(completion.model)
        return completion

    async def _tokens(self, choices: tuple[str, ...]) -> dict[str, str] | None:
        """The choice that each answer token means; None where some choice is not one token of its own."""
        if choices not in self._token_ids:
            self._token_ids[choices] = asyncio.ensure_future(self._look_up(choices))
        try:
            return await asyncio.shield(self._token_ids[choices])
        except ProviderError:
            self._token_ids.pop(choices, None)
            raise

    async def _look_up(self, choices: tuple[str, ...]) -> dict[str, str] | None:
        if len(choices) > TOP_LOGPROBS:
            return None
        names: dict[str, str] = {}
        for choice in choices:
            body = {"model": self._served, "prompt": choice, "add_special_tokens": False}
            payload = orjson.dumps(body)
            try:
                tokens = await self._policy.call(lambda payload=payload: self._tokenize(payload))  # type: ignore[misc]
            except ProviderError as error:
                if error.kind in ("not_found", "bad_request"):
                    return None  # other engines with this API have no /tokenize
                raise
            if len(tokens) != 1:
                return None
            names[f"token_id:{tokens[0]}"] = choice
        return names if len(names) == len(choices) else None

    async def _tokenize(self, payload: bytes) -> list[int]:
        reply = decode(await self.send("POST", "/tokenize", payload))
        tokens = reply.get("tokens")
        if not isinstance(tokens, list):
            raise AttemptFailed("malformed", "the reply of /tokenize holds no tokens")
        return tokens

    async def send(self, method: str, path: str, payload: bytes | None = None) -> bytes:
        """One exchange with the engine, as its HTTP API has it. Raises AttemptFailed for all but success.

        The only way to the engine: replicas and an engine in this process have a `send` of their own.
        """
        if self._session is None:
            self._session = self._open()
        try:
            data = None if payload is None else aiohttp.BytesPayload(payload)  # which aiohttp would look up
            asked = self._session.request(method, self._root + path, data=data, allow_redirects=False)
            async with asked as response:
                raw = await response.read()
                if response.status >= 300:
                    raise http_failure(response.status, response.headers, raw.decode("utf-8", "replace"))
                return raw
        except aiohttp.ClientError as error:
            raise self.lost(error) from error

    def lost(self, error: aiohttp.ClientError) -> AttemptFailed | ProviderError:
        """What a broken connection means."""
        return connection_failure(error)

    def _open(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return aiohttp.ClientSession(
            headers=headers,
            connector=CleanConnector(limit=self._config.max_concurrency),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            trust_env=_behind_proxy(self._root),  # looked up anew for every call, at more than the call costs
        )

    async def probe(self) -> None:
        """List the served models. Raises ProviderError: unreachable, auth or not_found."""
        require_served(self._served, self._root, await self._policy.call(self.served))

    async def served(self) -> list[str]:
        """The names of the models served there, in one attempt. Raises AttemptFailed."""
        reply: Json = decode(await self.send("GET", "/v1/models"))
        try:
            return [model["id"] for model in reply["data"]]
        except (KeyError, TypeError) as error:
            raise AttemptFailed("malformed", f"/v1/models lists no models ({error!r})") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _behind_proxy(root: str) -> bool:
    """Whether the environment names a proxy for this server; one cannot reach this machine's loopback."""
    url = urlsplit(root)
    host = url.hostname or ""
    return host not in LOOPBACK and url.scheme in getproxies() and not proxy_bypass(host)
