"""`cai view` in tests: a real server on a loopback port, and runs to look at that the pipeline itself has made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import uvicorn

from cai.view.app import create_app
from cai.view.serve import listen, url_of
from cai.view.state import Settings, View
from tests.conduct.here import pipeline
from tests.flows.small import CONSTITUTION, obliging, small_run
from tests.wire import wire_server

TOKEN = "secret-of-the-tests"
REWORDED = CONSTITUTION.replace("Be honest.", "Be truthful.")


class Viewer(NamedTuple):
    """A viewer that is served. `client` has its cookie; `address` is what a user opens, with the token."""

    client: httpx.Client
    address: str
    view: View

    def page(self, path: str, status: int = 200, **query: object) -> str:
        """The text of a page; `query`: its parameters, without those that are None."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        answer = self.client.get(path, params=given or None, follow_redirects=True)
        assert answer.status_code == status, answer.text
        return answer.text


@contextmanager
def viewer(run: Path, against: Path | None = None, host: str = "127.0.0.1") -> Iterator[Viewer]:
    """Serve a run for the block, from when its index is complete."""
    with closing(listen(host, 0)) as listening:
        settings = Settings(run, against, TOKEN, host, listening.getsockname()[1])
        app = create_app(settings)
        view: View = app.state.view
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            for index in (view.index, view.other):
                assert index is None or index.ready.wait(120)
            address = url_of(settings)
            with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=60) as client:
                client.get(address)
                yield Viewer(client, address, view)
        finally:
            server.should_exit = True
            thread.join()


def edited_run(folder: Path) -> Path:
    """A run of every stage up to its dataset, by two versions of its constitution: it keeps the first."""

    async def make() -> Path:
        async with wire_server(reply=obliging) as server:
            config = small_run(folder, server.openai_url)
            await pipeline(config)
            Path(config.constitution).write_text(REWORDED)
            await pipeline(config)
        return config.root

    return asyncio.run(make())
