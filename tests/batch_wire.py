"""A loopback server that speaks the batch APIs of OpenAI and Anthropic as their SDKs do, with faults on demand.

    async with batch_server(fate=seeded(7)) as server:
        config = ModelConfig(backend="openai", model="toy", endpoint=server.openai_url, mode="batch")
        ...
    assert len(server.batches) == 1

Replies are those of `tests.wire` to the same bodies, so that a live run and one in batches can be compared. Results
come in a seeded order that is not the order of the requests. A batch is a little further with every look at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from aiohttp import web

from tests.wire import Answer, Json, Reply, chat_reply, echo, message_reply

Fate = Literal["ok", "overloaded", "invalid", "never", "missing", "garbled"]
Fault = int | Literal["lost", "cut"]
LINE_SEPARATOR = chr(0x2028)  # stands unescaped in JSON, and is no end of a line


@dataclass
class Batch:
    """A batch as the server has it. `requests`: bodies, and `fates`: what becomes of them, by custom id."""

    id: str
    requests: dict[str, Json]
    fates: dict[str, Fate]
    metadata: dict[str, str] | None = None
    created: float = field(default_factory=time.time)
    looks: int = 0
    status: str = "in_progress"
    files: list[str | None] = field(default_factory=lambda: [None, None])


@dataclass
class BatchWire:
    """The running server. `faults`: by name of the call, used up one a call: an HTTP status; `lost`, the work is done,
    but the connection is cut before the answer; `cut`, half an answer. `seen`: how often a custom id was submitted.
    """

    url: str = ""
    batches: dict[str, Batch] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    faults: Mapping[str, list[Fault]] = field(default_factory=dict)
    created: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)
    rest: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def openai_url(self) -> str:
        """Base URL for clients that expect `/v1` in it."""
        return f"{self.url}/v1"


def well(key: str, turn: int) -> Fate:
    """Every request is answered."""
    return "ok"


def seeded(seed: int) -> Callable[[str, int], Fate]:
    """About a third of the requests fail in their first two batches in one way or another that may pass."""

    def fate(key: str, turn: int) -> Fate:
        kinds: Sequence[Fate] = ("ok", "ok", "ok", "ok", "ok", "overloaded", "never", "missing")
        return random.Random(f"{seed} {key} {turn}").choice(kinds) if turn <= 2 else "ok"

    return fate


@contextlib.asynccontextmanager
async def batch_server(
    reply: Reply = echo,
    fate: Callable[[str, int], Fate] = well,
    *,
    looks: int = 2,
    status: Callable[[int], str] = lambda number: "completed",
    faults: Mapping[str, list[Fault]] | None = None,
    held: Sequence[str] = (),
    key: str | None = None,
) -> AsyncIterator[BatchWire]:
    """Serve on a free loopback port. `looks`: until a batch has ended, as `status` of its number says.

    `held`: until the event of that name is set, `answer` (a submission is accepted, but not answered), `end` (no batch
    ends) or `rest` (half of the results are sent, and the connection stays open).
    """
    wire = BatchWire(faults=faults or {})
    for name, event in (("answer", wire.answer), ("end", wire.end), ("rest", wire.rest)):
        if name not in held:
            event.set()
    world = _World(wire, reply, fate, looks, status, key)
    app = web.Application(client_max_size=2**28)
    app.add_routes(
        [
            web.get("/v1/models", world.models),
            web.post("/v1/files", world.guarded("upload", world.upload)),
            web.get("/v1/files/{id}/content", world.guarded("results", world.content)),
            web.post("/v1/batches", world.guarded("create", world.create_openai)),
            web.get("/v1/batches", world.guarded("list", world.list_openai)),
            web.get("/v1/batches/{id}", world.guarded("status", world.status_openai)),
            web.post("/v1/messages/batches", world.guarded("create", world.create_anthropic)),
            web.get("/v1/messages/batches", world.guarded("list", world.list_anthropic)),
            web.get("/v1/messages/batches/{id}", world.guarded("status", world.status_anthropic)),
            web.get("/v1/messages/batches/{id}/results", world.guarded("results", world.results)),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    wire.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield wire
    finally:
        wire.answer.set()
        wire.rest.set()
        await runner.cleanup()


class _World:
    """The handlers of one server."""

    def __init__(
        self,
        wire: BatchWire,
        reply: Reply,
        fate: Callable[[str, int], Fate],
        looks: int,
        status: Callable[[int], str],
        key: str | None,
    ) -> None:
        self._wire, self._reply, self._fate = wire, reply, fate
        self._looks, self._status, self._key = looks, status, key
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        for name, faults in wire.faults.items():
            self._faults[name] = list(faults)

    def guarded(self, name: str, handler: Any) -> Any:
        """The handler behind the key and the faults of its name."""

        async def guard(request: web.Request) -> web.StreamResponse:
            self._wire.calls[name] += 1
            given = request.headers.get("Authorization", "")
            if self._key is not None and self._key not in given:
                return _error(401, f"wrong API key: {given}", "authentication_error")
            fault = self._faults[name].pop(0) if self._faults[name] else None
            if isinstance(fault, int):
                await request.read()
                return _error(fault, "not now" if fault != 400 else "no such model in batches", "error")
            response: web.Response = await handler(request)
            if fault is None:
                waits = name == "results" and not self._wire.rest.is_set()
                return await self._halves(request, response) if waits else response
            assert request.transport is not None
            if fault == "cut":
                half = web.StreamResponse(headers={"Content-Type": "application/x-jsonl"})
                half.content_length = len(response.body)  # type: ignore[arg-type]
                await half.prepare(request)
                await half.write(response.body[: len(response.body) // 2])  # type: ignore[index, arg-type]
            request.transport.abort()
            return web.Response()

        return guard

    async def _halves(self, request: web.Request, whole: web.Response) -> web.StreamResponse:
        """The results in two pieces of whole lines, the second when the event is set."""
        assert isinstance(whole.body, bytes)
        rows = whole.body.splitlines(keepends=True)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"".join(rows[: len(rows) // 2]))
        await self._wire.rest.wait()
        await response.write(b"".join(rows[len(rows) // 2 :]))
        return response

    async def models(self, request: web.Request) -> web.Response:
        data = [{"id": "toy", "object": "model", "type": "model", "created": 0}]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        file = form["file"]
        assert isinstance(file, web.FileField)
        name = f"file-in-{len(self._wire.uploads)}"
        self._wire.uploads[name] = file.file.read()
        return web.json_response(
            {"id": name, "object": "file", "bytes": len(self._wire.uploads[name]), "created_at": 0,
             "filename": file.filename, "purpose": "batch", "status": "processed"}
        )  # fmt: skip

    async def create_openai(self, request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        lines = [orjson.loads(line) for line in self._wire.uploads[asked["input_file_id"]].splitlines()]
        assert all((line["method"], line["url"]) == ("POST", asked["endpoint"]) for line in lines)
        requests = {line["custom_id"]: line["body"] for line in lines}
        assert len(requests) == len(lines)
        batch = await self._create("batch", requests, asked["metadata"])
        return web.json_response(self._openai(batch))

    async def create_anthropic(self, request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())["requests"]
        requests = {one["custom_id"]: one["params"] for one in asked}
        assert len(requests) == len(asked)
        batch = await self._create("msgbatch", requests, None)
        return web.json_response(self._anthropic(batch))

    async def _create(self, kind: str, requests: dict[str, Json], metadata: dict[str, str] | None) -> Batch:
        wire = self._wire
        wire.seen.update(requests.keys())
        fates = {key: self._fate(key, wire.seen[key]) for key in requests}
        batch = Batch(f"{kind}_{len(wire.batches)}", requests, fates, metadata)
        wire.batches[batch.id] = batch
        wire.created.set()
        await wire.answer.wait()
        return batch

    async def list_openai(self, request: web.Request) -> web.Response:
        found, more = self._page(request.query.get("after"), int(request.query["limit"]))
        data = [self._openai(batch) for batch in found]
        return web.json_response({"object": "list", "data": data, "has_more": more})

    async def list_anthropic(self, request: web.Request) -> web.Response:
        found, more = self._page(request.query.get("after_id"), int(request.query["limit"]))
        data = [self._anthropic(batch) for batch in found]
        last = found[-1].id if found else None
        return web.json_response({"data": data, "has_more": more, "first_id": None, "last_id": last})

    def _page(self, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """A page of at most two, to see that the next one is asked for."""
        newest = list(reversed(self._wire.batches.values()))
        names = [batch.id for batch in newest]
        start = names.index(after) + 1 if after else 0
        page = newest[start : start + min(limit, 2)]
        return page, start + len(page) < len(newest)

    async def status_openai(self, request: web.Request) -> web.Response:
        return web.json_response(self._openai(self._look(request.match_info["id"])))

    async def status_anthropic(self, request: web.Request) -> web.Response:
        return web.json_response(self._anthropic(self._look(request.match_info["id"])))

    def _look(self, id_: str) -> Batch:
        if id_ not in self._wire.batches:
            raise web.HTTPNotFound(text='{"error": {"message": "no such batch"}}')
        batch = self._wire.batches[id_]
        batch.looks += 1
        self._wire.looked.set()
        if batch.looks > self._looks and self._wire.end.is_set() and batch.status == "in_progress":
            batch.status = self._status(list(self._wire.batches).index(id_))
            if batch.metadata is not None and batch.status != "failed":
                self._write_files(batch)
        return batch

    def _openai(self, batch: Batch) -> Json:
        total = len(batch.requests)
        share = min(batch.looks, self._looks) / self._looks
        done = total if batch.status != "in_progress" else int(total * share)
        errors = {"data": [{"code": "token_limit_exceeded", "message": "Too much\nis queued", "line": None}]}
        return {
            "id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions", "status": batch.status,
            "errors": errors if batch.status == "failed" else None, "input_file_id": "file-in",
            "completion_window": "24h", "created_at": int(batch.created), "metadata": batch.metadata,
            "output_file_id": batch.files[0], "error_file_id": batch.files[1],
            "request_counts": {"total": total, "completed": done, "failed": 0},
        }  # fmt: skip

    def _anthropic(self, batch: Batch) -> Json:
        ended = batch.status != "in_progress"
        made = datetime.fromtimestamp(batch.created, UTC).isoformat().replace("+00:00", "Z")
        counts = {"processing": 0 if ended else len(batch.requests), "succeeded": 0, "errored": 0}
        counts |= {"canceled": 0, "expired": 0}
        counts["succeeded"] = len(batch.requests) - counts["processing"]
        url = f"{self._wire.url}/v1/messages/batches/{batch.id}/results"
        return {
            "id": batch.id, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts, "created_at": made, "expires_at": made, "ended_at": made if ended else None,
            "cancel_initiated_at": None, "archived_at": None, "results_url": url if ended else None,
        }  # fmt: skip

    def _shuffled(self, batch: Batch) -> list[tuple[str, Json]]:
        rows = list(batch.requests.items())
        random.Random(batch.id).shuffle(rows)
        return rows

    def _answer(self, body: Json) -> Answer:
        answer = self._reply(unmarked(body))
        return Answer(answer) if isinstance(answer, str) else answer

    def _write_files(self, batch: Batch) -> None:
        good: list[Json] = []
        bad: list[Json] = []
        for key, body in self._shuffled(batch):
            fate = "never" if batch.status == "expired" and len(good) > 1 else batch.fates[key]
            row: Json = {"id": f"batch_req_{key}", "custom_id": key, "response": None, "error": None}
            if fate == "ok":
                reply = chat_reply(body, self._answer(body))
                good.append(row | {"response": {"status_code": 200, "request_id": "r", "body": reply}})
            elif fate == "garbled":
                good.append(
                    row | {"response": {"status_code": 200, "request_id": "r", "body": {"choices": []}}}
                )
            elif fate == "never":
                bad.append(row | {"error": {"code": "batch_expired", "message": "It was not run in time."}})
            elif fate != "missing":
                status, text = (500, "overloaded") if fate == "overloaded" else (400, "unknown role")
                reply = {"error": {"message": text, "type": "error"}}
                bad.append(row | {"response": {"status_code": status, "request_id": "r", "body": reply}})
        for number, rows in enumerate((good, bad)):
            if rows:
                batch.files[number] = f"file-{batch.id}-{number}"
                self._wire.uploads[f"file-{batch.id}-{number}"] = _jsonl(rows)

    async def content(self, request: web.Request) -> web.Response:
        return web.Response(body=self._wire.uploads[request.match_info["id"]])

    async def results(self, request: web.Request) -> web.Response:
        batch = self._wire.batches[request.match_info["id"]]
        rows: list[Json] = []
        for key, body in self._shuffled(batch):
            fate = "never" if batch.status == "expired" and len(rows) > 1 else batch.fates[key]
            result: Json = {"type": "succeeded", "message": message_reply(body, self._answer(body))}
            if fate == "garbled":
                result["message"] = {"type": "message"}
            elif fate == "never":
                result = {"type": "expired"}
            elif fate in ("overloaded", "invalid"):
                kind = "overloaded_error" if fate == "overloaded" else "invalid_request_error"
                error = {"type": kind, "message": "overloaded" if fate == "overloaded" else "unknown role"}
                result = {"type": "errored", "error": {"type": "error", "error": error}}
            if fate != "missing":
                rows.append({"custom_id": key, "result": result})
        return web.Response(body=_jsonl(rows))


def unmarked(body: Json) -> Json:
    """The body without the marks of prompt caching, which change no reply."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: clean(inner) for name, inner in value.items() if name != "cache_control"}
        return [clean(inner) for inner in value] if isinstance(value, list) else value

    cleaned: Json = clean(body)
    return cleaned


def separated(body: Json) -> Answer:
    """Like `echo`, with a line separator in every text that is no choice."""
    answer = echo(unmarked(body))
    return answer if answer.probs else Answer(f"one{LINE_SEPARATOR}two {answer.text}")


def _jsonl(rows: Sequence[Json]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _error(status: int, message: str, kind: str) -> web.Response:
    body = {"type": "error", "error": {"message": message, "type": kind, "code": kind}}
    return web.json_response(body, status=status)
