"""A loopback hub that speaks what huggingface_hub's client asks for an upload: repositories, LFS, commits.

    with hub_server() as hub:
        subprocess.run([..., "push", ...], env=hub.environment("writer"))
    assert hub.repos["org/name"].files["config.json"] == ...

Tokens: `writer` may do everything, `reader` may write nowhere (403), any other is unknown (401).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Repo:
    """A repository with the files of its last commit. `commits`: their ids, the first of an empty one."""

    private: bool
    kind: str = "model"
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


@dataclass
class Hub:
    """The running hub. `spoilt`: the status of every commit, where it is to fail."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    spoilt: int | None = None

    def environment(self, token: str | None, **more: str) -> dict[str, str]:
        """Of a process that pushes here; large files go by LFS, since this hub has no Xet storage."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        own = {} if token is None else {"HF_TOKEN": token}
        return kept | {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1"} | own | more


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve on a free loopback port, in a thread."""
    hub, loop = Hub(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = web.AppRunner(_app(hub), shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield hub
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class _World:
    """What the hub answers."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    @web.middleware
    async def known(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.hub.asked.append(f"{request.method} {request.path}")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("writer", "reader") and not request.path.startswith("/lfs/"):
            return web.json_response({"error": f"Invalid credentials: {token}"}, status=401)
        if token == "reader" and request.method == "POST":
            return web.json_response({"error": "You don't have the rights"}, status=403)
        return await handler(request)  # type: ignore[no-any-return]

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = f"{body['organization']}/{body['name']}"
        if name in self.hub.repos:
            return web.json_response({"error": "You already created this repo", "url": name}, status=409)
        self.hub.repos[name] = Repo(private=body["visibility"] == "private", kind=body.get("type", "model"))
        return web.json_response({"url": f"{self.hub.url}/{name}", "name": name})

    def repo_of(self, request: web.Request) -> Repo:
        return self.hub.repos["{org}/{name}".format(**request.match_info)]

    async def info(self, request: web.Request) -> web.Response:
        repo = self.repo_of(request)
        name = "{org}/{name}".format(**request.match_info)
        return web.json_response(
            {"id": name, "private": repo.private, "sha": repo.commits[-1], "siblings": []}
        )

    async def tree(self, request: web.Request) -> web.Response:
        found = self.repo_of(request).files.items()
        return web.json_response(
            [{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in found]
        )

    async def preupload(self, request: web.Request) -> web.Response:
        files = (await request.json())["files"]
        modes = ["lfs" if one["path"].endswith(".safetensors") else "regular" for one in files]
        rows = [
            {"path": one["path"], "uploadMode": mode, "shouldIgnore": False}
            for one, mode in zip(files, modes, strict=True)
        ]
        return web.json_response({"files": rows})

    async def batch(self, request: web.Request) -> web.Response:
        objects = (await request.json())["objects"]
        actions = [{"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}} for one in objects]
        rows = [one | {"actions": action} for one, action in zip(objects, actions, strict=True)]
        return web.json_response({"transfer": "basic", "objects": rows})

    async def put(self, request: web.Request) -> web.Response:
        data = await request.read()
        assert hashlib.sha256(data).hexdigest() == request.match_info["oid"]
        self.hub.stored[request.match_info["oid"]] = data
        return web.Response()

    async def commit(self, request: web.Request) -> web.Response:
        if self.hub.spoilt is not None:
            return web.json_response({"error": "a bad day\x1b[2J"}, status=self.hub.spoilt)
        repo = self.repo_of(request)
        lines = [json.loads(line) for line in (await request.read()).splitlines()]
        if lines[0]["value"].get("parentCommit") != repo.commits[-1]:
            return web.json_response({"error": "a commit has happened since"}, status=412)
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                repo.files[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                repo.files[path] = self.hub.stored[line["value"]["oid"]]
            elif line["key"] == "deletedFile":
                del repo.files[path]
        state = json.dumps(sorted((path, data.hex()) for path, data in repo.files.items()))
        repo.commits.append(hashlib.sha1(f"{repo.commits[-1]}{state}".encode()).hexdigest())
        place = "{org}/{name}".format(**request.match_info)
        place = place if repo.kind == "model" else f"datasets/{place}"
        url = f"{self.hub.url}/{place}/commit/{repo.commits[-1]}"
        return web.json_response({"commitUrl": url, "commitOid": repo.commits[-1]})

    async def valid(self, _: web.Request) -> web.Response:
        return web.json_response({"errors": [], "warnings": []})


def _app(hub: Hub) -> web.Application:
    world = _World(hub)
    app = web.Application(middlewares=[world.known], client_max_size=2**26)
    app.add_routes([web.post("/api/repos/create", world.create), web.post("/api/validate-yaml", world.valid)])
    app.add_routes([web.put("/lfs/{oid}", world.put)])
    for kind, prefix in (("models", ""), ("datasets", "/datasets")):
        api = f"/api/{kind}/{{org}}/{{name}}"
        app.add_routes(
            [
                web.get(api, world.info),
                web.get(f"{api}/revision/main", world.info),
                web.get(f"{api}/tree/main", world.tree),
                web.post(f"{api}/preupload/main", world.preupload),
                web.post(f"{prefix}/{{org}}/{{name}}.git/info/lfs/objects/batch", world.batch),
                web.post(f"{api}/commit/main", world.commit),
            ]
        )
    return app
