"""A loopback server that speaks the real wire formats of OpenAI, vLLM and Anthropic, with faults on demand.

    async with wire_server(faults=[Fault(status=429, headers={"Retry-After": "1"})]) as server:
        config = ModelConfig(backend="vllm", model="toy", endpoint=server.url)
        ...
    assert len(server.requests) == 2

Replies are a function of the request body alone (seed included), so a run against it can be repeated. A
fault takes the place of one generation call, in the order of arrival: `faults` is a sequence (None: no
fault; when it is used up, all goes well) or a function of the number of the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from aiohttp import web

Json = dict[str, Any]
Spoilt = Literal[
    "reset", "cut", "unended", "hang", "headers", "drip", "truncated", "html", "gzip", "again",
    "empty", "no_usage", "refusal",
]  # fmt: skip
DRIP_S = 0.02  # between two bytes
AGAIN_S = 0.02  # between a reply and its double


@dataclass(frozen=True)
class Answer:
    """What the model says. `probs`: of the first answer token, for a request with logprobs or choices.

    A text that is one of the choices is sent as the JSON verdict where one is asked for; any other as it is.
    """

    text: str
    probs: dict[str, float] = field(default_factory=dict)
    finish: Literal["stop", "length"] = "stop"
    refused: bool = False


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call: an HTTP `status` with `headers` and `message`, or a `kind` of spoilt reply.

    reset: the connection is cut before a reply, cut: in the middle of its body, unended: before the last chunk. hang:
    no reply, headers: no body behind them, drip: a byte now and then. truncated: half of the JSON. html: a proxy's
    error page with status 200. gzip: a body that is not what its encoding says. again: a good reply, and a moment
    later the same bytes again. empty: no choices and no content. no_usage: a good reply that does not count its
    tokens. refusal: the model declines. `spoil`: makes of a good reply what is sent instead; `mime`: as which type.
    """

    kind: Spoilt | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "the server is asked too much"
    code: str | None = None
    spoil: Callable[[Json], Json | bytes] | None = None
    mime: str = "application/json"


@dataclass
class Wire:
    """The running server. `url`: its root; `openai_url` as the OpenAI SDK wants it. `requests`: bodies, in order.

    `calls`: generation calls so far, faults included. `peak`: most calls in flight at once.
    """

    url: str = ""
    requests: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    calls: int = 0
    peak: int = 0
    in_flight: int = 0
    peers: set[tuple[str, int]] = field(default_factory=set)

    @property
    def connections(self) -> int:
        """How many connections generation calls came over."""
        return len(self.peers)

    @property
    def openai_url(self) -> str:
        """Base URL for clients that expect `/v1` in it."""
        return f"{self.url}/v1"


Reply = Callable[[Json], Answer | str]
Faults = Sequence[Fault | None] | Callable[[int], Fault | None]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def echo(body: Json) -> Answer:
    """The default reply: a short text, or one of the choices, drawn by a digest of the whole body."""
    digest = hashlib.blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()
    choices = asked_choices(body)
    if not choices:
        return Answer(f"reply {digest.hex()}")
    weights = [1 + byte for byte, _ in zip(digest, choices, strict=False)]
    probs = {choice: weight / sum(weights) for choice, weight in zip(choices, weights, strict=True)}
    return Answer(max(probs, key=lambda choice: probs[choice]), probs)


def asked_choices(body: Json) -> list[str]:
    """The choices that a request is limited to, in either protocol; ["A", "B"] where only logprobs are asked."""
    if "structured_outputs" in body:
        return list(body["structured_outputs"]["choice"])
    if "answer" in verdict_fields(body):
        return list(verdict_fields(body)["answer"]["enum"])
    return ["A", "B"] if body.get("logprobs") else []


def verdict_fields(body: Json) -> Json:
    """The fields of the JSON that a request asks for, in either protocol; {} where it asks for none."""
    openai = body.get("response_format", {}).get("json_schema", {})
    schema = openai.get("schema") or body.get("output_config", {}).get("format", {}).get("schema", {})
    return dict(schema.get("properties", {}))


def _said(body: Json, answer: Answer) -> str:
    """The text of the reply: the JSON verdict for one of the choices, where it is asked for."""
    fields = verdict_fields(body)
    if "answer" not in fields or answer.refused or answer.text not in fields["answer"]["enum"]:
        return answer.text
    verdict = {"answer": answer.text, "confidence": answer.probs.get(answer.text, 1.0)}
    return orjson.dumps({name: value for name, value in verdict.items() if name in fields}).decode()


@contextlib.asynccontextmanager
async def wire_server(
    reply: Reply = echo,
    faults: Faults = (),
    models: Sequence[str] = ("toy",),
    key: str | None = None,
    delay_s: float = 0.0,
    port: int = 0,
) -> AsyncIterator[Wire]:
    """Serve on a loopback port, 0: a free one. `models`: names served. `key`: the only one accepted; None: any."""
    wire = Wire()
    world = _World(wire, reply, faults, tuple(models), key, delay_s)
    app = web.Application(client_max_size=2**26)
    app.add_routes(
        [
            web.post("/v1/chat/completions", world.guarded(world.chat)),
            web.post("/v1/messages", world.guarded(world.message)),
            web.post("/tokenize", world.guarded(world.tokenize)),
            web.get("/v1/models", world.guarded(world.list_models)),
            web.get("/v1/models/{name}", world.guarded(world.one_model)),
            web.get("/health", world.health),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    wire.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield wire
    finally:
        world.closing.set()
        await runner.cleanup()


class _World:
    """The handlers of one server."""

    def __init__(
        self,
        wire: Wire,
        reply: Reply,
        faults: Faults,
        models: tuple[str, ...],
        key: str | None,
        delay_s: float,
    ) -> None:
        self._wire = wire
        self._reply = reply
        self._fault = faults if callable(faults) else lambda n: faults[n] if n < len(faults) else None
        self._models = models
        self._key = key
        self._delay_s = delay_s
        self.closing = asyncio.Event()

    def guarded(self, handler: Handler) -> Handler:
        """The handler behind the check of the key; the refusal echoes the key, as careless proxies do."""

        async def guard(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("Authorization", request.headers.get("x-api-key", ""))
            if self._key is not None and self._key not in given:
                return _error(401, f"wrong API key: {given}", "authentication_error")
            return await handler(request)

        return guard

    async def health(self, request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        data = [{"id": name, "object": "model", "type": "model", "created": 0} for name in self._models]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def one_model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._models:
            return _error(404, f"model: {name}", "not_found_error")
        return web.json_response({"id": name, "type": "model"})

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        """One token for each character, which is its code point."""
        body = orjson.loads(await request.read())
        tokens = [ord(letter) for letter in body["prompt"]]
        return web.json_response({"count": len(tokens), "max_model_len": 2048, "tokens": tokens})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat_reply)

    async def message(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, message_reply)

    async def _generate(
        self, request: web.Request, shape: Callable[[Json, Answer], Json]
    ) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        wire, number = self._wire, self._wire.calls
        wire.calls += 1
        if request.transport is not None:
            wire.peers.add(request.transport.get_extra_info("peername"))
        wire.requests.append(body)
        wire.headers.append(dict(request.headers))
        wire.in_flight += 1
        wire.peak = max(wire.peak, wire.in_flight)
        try:
            if body["model"] not in self._models:
                return _error(404, f"The model `{body['model']}` does not exist.", "not_found_error")
            await asyncio.sleep(self._delay_s)
            return await self._answer(request, body, self._fault(number), shape)
        finally:
            wire.in_flight -= 1

    async def _answer(
        self, request: web.Request, body: Json, fault: Fault | None, shape: Callable[[Json, Answer], Json]
    ) -> web.StreamResponse:
        answer = self._reply(body)
        if isinstance(answer, str):
            answer = Answer(answer)
        if fault is None:
            return _json(shape(body, answer))
        if fault.status != 200:
            return _error(fault.status, fault.message, fault.code or "error", fault.headers)
        if fault.kind == "refusal":
            return _json(shape(body, Answer("I cannot help with that.", refused=True)))
        if fault.kind in ("reset", "hang", "html", "gzip"):
            return await self._none(request, fault.kind)
        return await self._spoilt(request, shape(body, answer), fault)

    async def _none(self, request: web.Request, kind: Spoilt) -> web.StreamResponse:
        """What is not even part of a reply."""
        assert request.transport is not None
        if kind == "html":
            return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
        if kind == "gzip":
            return web.Response(body=b"not gzip at all", headers={"Content-Encoding": "gzip"})
        if kind == "hang":
            await self.closing.wait()
            return web.Response(status=503)
        request.transport.abort()
        return web.Response()

    async def _spoilt(self, request: web.Request, reply: Json, fault: Fault) -> web.StreamResponse:
        """A good reply, spoilt."""
        spoiled = fault.spoil(reply) if fault.spoil is not None else reply
        raw = spoiled if isinstance(spoiled, bytes) else orjson.dumps(spoiled)
        if fault.spoil is not None or fault.mime != "application/json":
            return web.Response(body=raw, content_type=fault.mime)
        if fault.kind == "truncated":
            return web.Response(body=raw[: len(raw) // 2], content_type="application/json")
        if fault.kind in ("cut", "unended", "headers", "drip"):
            return await self._broken_off(request, raw, fault.kind)
        if fault.kind == "again":
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
            assert request.transport is not None
            asyncio.get_running_loop().call_later(AGAIN_S, request.transport.write, head.encode() + raw)
            return web.Response(body=raw, content_type="application/json")
        spoilt = ("usage",) if fault.kind == "no_usage" else ("choices", "content")
        return _json(
            {name: [] if name != "usage" else None for name in spoilt if name in reply}
            | {name: value for name, value in reply.items() if name not in spoilt}
        )

    async def _broken_off(self, request: web.Request, raw: bytes, kind: Spoilt) -> web.StreamResponse:
        """A reply that begins well and does not come to its end."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if kind == "unended":
            response.enable_chunked_encoding()
        else:
            response.content_length = len(raw)
        await response.prepare(request)
        transport = request.transport
        assert transport is not None
        if kind == "headers":
            await self.closing.wait()
        elif kind == "drip":
            for number in range(len(raw) - 1):
                with contextlib.suppress(TimeoutError, ConnectionError):  # the client is gone: the same to us
                    await response.write(raw[number : number + 1])
                    await asyncio.wait_for(self.closing.wait(), DRIP_S)
        else:
            await response.write(raw[: len(raw) // 2])
            await asyncio.sleep(0.01)  # so that it is read before the connection is cut
        transport.abort()
        return response


def _json(data: Json) -> web.Response:
    return web.Response(body=orjson.dumps(data), content_type="application/json")


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"type": "error", "error": {"message": message, "type": kind, "code": kind}}
    return web.json_response(body, status=status, headers=headers)


def _tokens(text: Any) -> int:
    return len(str(text).split())


def chat_reply(body: Json, answer: Answer) -> Json:
    """A chat completion as OpenAI and vLLM word it."""
    by_id = body.get("return_tokens_as_token_ids", False)
    text = _said(body, answer)
    message: Json = {"role": "assistant", "content": text, "refusal": None}
    if answer.refused:
        message = {"role": "assistant", "content": None, "refusal": answer.text}
    choice: Json = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
    if body.get("logprobs") and not answer.refused:
        top = [_logprob(token, p, by_id) for token, p in (answer.probs or {answer.text: 1.0}).items()]
        choice["logprobs"] = {"content": [{**_logprob(answer.text, 1.0, by_id), "top_logprobs": top}]}
    prompt, completion = _tokens(body["messages"]), _tokens(text)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 1}},
    }


def _logprob(token: str, p: float, by_id: bool) -> Json:
    name = f"token_id:{ord(token[:1] or ' ')}" if by_id else token
    return {"token": name, "logprob": math.log(p) if p > 0 else -9999.0, "bytes": list(token.encode())}


def message_reply(body: Json, answer: Answer) -> Json:
    """A message as Anthropic words it."""
    text = _said(body, answer)
    stop = "refusal" if answer.refused else {"stop": "end_turn", "length": "max_tokens"}[answer.finish]
    return {
        "id": "msg_0",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [] if answer.refused else [{"type": "text", "text": text}],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {
            "input_tokens": _tokens(body["messages"]),
            "output_tokens": _tokens(text),
            "cache_read_input_tokens": 1,
            "cache_creation_input_tokens": 0,
        },
    }
