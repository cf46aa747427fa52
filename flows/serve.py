"""Serve: deployments run from this process on their schedules, until it is stopped.

Without a Prefect server a server of its own is started on a loopback port and ended with this process, in whatever
way that ends: Prefect's temporary one does not look at schedules. Its database stays, and with it the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefect import serve as serve_deployments
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

from cai.cli.common import print_json
from cai.errors import ServerError
from cai.models.engine import last_words
from cai.models.managed import SUPERVISOR
from cai.models.supervise import GRACE_S
from cai.report.tables import plain
from flows.deployments import deployment_of, put, row_of
from flows.wanted import Wanted

PORT = 4200
START_S = 180.0
POLL_S = 0.25


def serve(wanted: Sequence[Wanted], log: Path, *, as_json: bool) -> int:
    """Run the deployments, one run at a time, until Ctrl-C or SIGTERM; runs that are going are ended then."""
    made = [asyncio.run(deployment_of(one)) for one in wanted]
    url = PREFECT_API_URL.value()
    with contextlib.ExitStack() as stack:
        if not url:
            url = stack.enter_context(own_server(log))
            os.environ["PREFECT_API_URL"] = url
            stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
        for deployment in made:
            asyncio.run(put(deployment, None))
        rows = [row_of(one, deployment) for one, deployment in zip(wanted, made, strict=True)]
        if as_json:
            print_json({"deployments": rows, "ui": url.removesuffix("/api")})
        else:
            console = Console()
            for row in rows:
                console.print(f"serving {plain(row['name'])}  {plain(row['schedule'] or 'no schedule')}")
            console.print(f"UI {plain(url.removesuffix('/api'))}; Ctrl-C stops it", soft_wrap=True)
        serve_deployments(*made, limit=1, print_starting_message=False)
    return 0


@contextlib.contextmanager
def own_server(log_path: Path) -> Iterator[str]:
    """A Prefect server with its UI for the length of the block; yields the URL of its API. Raises ServerError."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", str(SUPERVISOR), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PREFECT_API_URL": url, "PREFECT_SERVER_UI_API_URL": url},
            start_new_session=True,  # Ctrl-C is for this process, which ends its runs while the server still is there
        )
    try:
        deadline = time.monotonic() + START_S
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                words = last_words(log_path, start)
                raise ServerError(f"the Prefect server did not start: {words} (log: {log_path})")
            time.sleep(POLL_S)
        yield url
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(GRACE_S + 3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as response:
        return bool(response.status == 200)
    return False


def _free_port() -> int:
    """Prefect's usual port where it is free, else any."""
    for port in (PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ServerError("no loopback port is free")
