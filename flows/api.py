"""The Prefect API that a run reports to: the configured one, or that of a temporary server of its own.

Prefect takes seconds to import, and its server longer, so the two load at once: nothing here imports Prefect before
the server has been started.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cai.config import RunConfig
from cai.errors import ConfigError
from flows.server import APP, TEMPORARY, Server, free_port, started, wait_for


@contextlib.contextmanager
def api_for(config: RunConfig) -> Iterator[Callable[[], None]]:
    """A Prefect API for the block; `ready()`, which it yields, waits until it answers.

    A temporary server is started at once where the environment names no API; where a file of Prefect's does
    (profile, `.env`, `prefect.toml`), it is ended before it has come up.
    Raises ConfigError where Ray's workers on other nodes could not reach it, ServerError where it does not start.
    """
    others = config.ray is not None and config.ray.address is not None
    with contextlib.ExitStack() as stack:
        server = None
        if not others and not os.environ.get("PREFECT_API_URL"):
            server = stack.enter_context(temporary())
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        if PREFECT_API_URL.value():
            stack.close()
            yield lambda: None
            return
        if others:
            raise ConfigError(
                "ray.address: the workers report to a Prefect server; start one (`prefect server start`) and set "
                "PREFECT_API_URL to where they reach it"
            )
        own = server or stack.enter_context(temporary())
        with temporary_settings({PREFECT_API_URL: own.url, PREFECT_API_AUTH_STRING: own.login}):
            yield lambda: wait_for(own)
            _flush()


@contextlib.contextmanager
def temporary() -> Iterator[Server]:
    """A temporary server on the database of Prefect's settings, starting; its log is gone with it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        started(APP, free_port(), TEMPORARY, Path(folder) / "prefect-server.log") as server,
    ):
        yield server


def _flush() -> None:
    """Let the server hear of everything before it ends."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=5)
