"""Prefect's own programs for a test: a server on a free port, started and ended, and its API."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parent.parent.parent
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def prefect_environment(folder: Path) -> tuple[str, dict[str, str]]:
    """The URL of an API on a free port, and the environment for server, client and worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PWD": str(ROOT),
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_API_PORT": str(port),
    }
    return api, environment


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path, cwd: Path = ROOT) -> Iterator[None]:
    """A program for the length of the block, ended with its process group."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


async def post(api: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a filter of the API finds."""
    async with aiohttp.ClientSession() as session, session.post(f"{api}{path}", json=body) as response:
        found: list[dict[str, Any]] = await response.json()
        return found


async def until_healthy(api: str) -> None:
    """Wait for the server."""
    async with aiohttp.ClientSession() as session:
        for _ in range(240):
            try:
                async with session.get(f"{api}/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise AssertionError("the Prefect server did not come up")
