"""Serve: deployments run from this process on their schedules, until it is stopped.

Without a Prefect server a server of its own is started on a loopback port and ended with this process, in whatever
way that ends: Prefect's temporary one does not look at schedules. Its database stays, and with it the history. Whoever
may use it may run what they like as this user, so it wants a login: that of PREFECT_SERVER_API_AUTH_STRING
(`user:key`), else a new one, which is told here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefect import serve as serve_deployments
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_SERVER_API_AUTH_STRING,
    temporary_settings,
)
from rich.console import Console

from cai.cli.common import print_json
from cai.report.tables import plain
from flows.deployments import deployment_of, put, row_of
from flows.server import Server, free_port, started, wait_for
from flows.wanted import Wanted

PORT = 4200


def serve(wanted: Sequence[Wanted], log: Path, *, as_json: bool) -> int:
    """Run the deployments, one run at a time, until Ctrl-C or SIGTERM; runs that are going are ended then."""
    made = [asyncio.run(deployment_of(one)) for one in wanted]
    url, login = PREFECT_API_URL.value(), None
    with contextlib.ExitStack() as stack:
        if not url:
            server = stack.enter_context(own_server(log))
            url, login = server.url, server.login
            os.environ |= {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": login}
            stack.enter_context(temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: login}))
        for deployment in made:
            asyncio.run(put(deployment, None))
        rows = [row_of(one, deployment) for one, deployment in zip(wanted, made, strict=True)]
        if as_json:
            print_json({"deployments": rows, "ui": url.removesuffix("/api"), "login": login})
        else:
            console = Console()
            for row in rows:
                console.print(f"serving {plain(row['name'])}  {plain(row['schedule'] or 'no schedule')}")
            asks = f", login {plain(login)}" if login else ""
            console.print(
                f"UI {plain(url.removesuffix('/api'))}{asks}; Ctrl-C stops it",
                soft_wrap=True,
                highlight=False,
            )
        serve_deployments(*made, limit=1, print_starting_message=False)
    return 0


@contextlib.contextmanager
def own_server(log: Path) -> Iterator[Server]:
    """A Prefect server with its UI for the length of the block. Raises ServerError."""
    port = free_port(PORT)
    ui = {"PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api"}
    login = PREFECT_SERVER_API_AUTH_STRING.value()
    with started(["-m", "prefect", "server", "start"], port, ui, log, login) as server:
        wait_for(server)
        yield server
