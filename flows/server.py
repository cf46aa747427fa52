"""A Prefect server of our own, for as long as a block lasts, and ended with this process in whatever way that ends.

Prefect's own temporary server is started by the client, which loads all of the server's code for that, and is left
over where the client is killed; and it takes orders from every user of the machine, while this one has a key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cai.errors import ServerError
from cai.models import supervise
from cai.models.engine import last_words
from cai.models.supervise import GRACE_S

START_S = 180.0
POLL_S = 0.1
APP = ["-m", "flows.temporary"]
TEMPORARY = {  # as Prefect starts its own: no UI, and only the services that a run needs
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    # what else a run does not need, and would wait for; a server that is started to stay makes up for it
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",  # loads all collections, Ray and pandas with them
    "PY_KEY_VALUE_DISABLE_BEARTYPE": "true",  # compiles every module of it anew, to check its types while it runs
}


class Server(NamedTuple):
    """A server that has been started.

    `url`: of its API; `login`: what that wants to be asked with, `user:key`; `log_start`: where its part of the log
    begins.
    """

    url: str
    login: str
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int


@contextlib.contextmanager
def started(
    command: Sequence[str], port: int, environment: Mapping[str, str], log: Path, login: str | None = None
) -> Iterator[Server]:
    """Start `python <command>` as a server on a loopback port, and end it with the block; it is not waited for.

    `login`: what it is to be asked with; None: a key that was never used before.
    """
    login = login or f"cai:{secrets.token_urlsafe(24)}"
    asked = {"PREFECT_SERVER_API_AUTH_STRING": login, "PREFECT_API_AUTH_STRING": login}
    url = f"http://127.0.0.1:{port}/api"
    address = ["--host", "127.0.0.1", "--port", str(port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", supervise.__file__, sys.executable, *command, *address],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PREFECT_API_URL": url, **asked, **environment},
            start_new_session=True,  # Ctrl-C is for this process, which ends its runs while the server still is there
        )
    try:
        yield Server(url, login, process, log, start)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S + 3)
        with contextlib.suppress(ProcessLookupError):  # late, or its supervisor was killed
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(server: Server) -> None:
    """Wait until the server answers. Raises ServerError where it does not come up."""
    deadline = time.monotonic() + START_S
    while not _healthy(server.url):
        if server.process.poll() is not None or time.monotonic() > deadline:
            words = last_words(server.log, server.log_start)
            raise ServerError(f"the Prefect server did not start: {words} (log: {server.log})")
        time.sleep(POLL_S)


def free_port(wanted: int = 0) -> int:
    """A loopback port: the wanted one where it is free, else any. Raises ServerError."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ServerError("no loopback port is free")


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as response:
        return bool(response.status == 200)
    return False
