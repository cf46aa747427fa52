"""A viewer on a port of this machine: the token, the printed address, the browser, and an end without a traceback."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import socket
import threading
import webbrowser
from pathlib import Path

import uvicorn
from rich.console import Console

from cai.errors import ConfigError
from cai.report.tables import plain
from cai.view.app import create_app
from cai.view.progress import index_progress
from cai.view.state import Settings

READY_S = 1.5  # that the address waits for the index of a small run


def serve(run: Path, against: Path | None, host: str, port: int, browser: bool) -> None:
    """Serve a run until interrupted. Raises ConfigError for a folder that is no run, or a port that is taken."""
    console = Console(stderr=True)
    with contextlib.closing(listen(host, port)) as listening:
        settings = Settings(run, against, secrets.token_urlsafe(24), host, listening.getsockname()[1])
        with index_progress(console) as told:
            app = create_app(settings, told)
            app.state.view.index.ready.wait(READY_S)
            address = url_of(settings)
            console.print(f"{plain(str(run))}: [bold]{address}[/]", soft_wrap=True, highlight=False)
            if not is_loopback(host):
                console.print(
                    f"warning: {plain(host)} is reached from other machines; whoever has the address reads the run"
                )
            console.print("Ctrl-C ends it.")
            if browser:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
            config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; 0: on a port that is free. Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host}: {getattr(error, 'strerror', None) or error}; give an address of this machine"
        ) from error
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(64)
    except OSError as error:
        found.close()
        taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        fix = "give --port 0 for one that is free" if taken else "give --host an address of this machine"
        raise ConfigError(f"{host}:{port}: {error.strerror or error}; {fix}") from error
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(settings: Settings) -> str:
    """The address to open, with the token."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{shown}:{settings.port}/?token={settings.token}"
