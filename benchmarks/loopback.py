"""A server that outruns its clients: the OpenAI and vLLM wire format from several processes on one port.

    with loopback(Behaviour(latency_s=0.05)) as server:
        ...  # a client asks server.url
        print(server.stats())

Each process is a uvloop with a bare protocol on a socket of its own (SO_REUSEPORT): keep-alive, bodies split over
packets, no framework. Counters and the number of times that a body was seen are shared by all processes, so
faults do not depend on which of them a retry reaches. `GET /stats` gives the counters, `POST /reset` zeroes
them; `python -m benchmarks.loopback --port 8000` serves until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple, cast

import orjson
import psutil

from benchmarks.replies import Behaviour, Fault, Kind, digest, http, say

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
SEEN_SLOTS = 2**22
FIRST, LAST = len(Kind) + len(Fault), len(Kind) + len(Fault) + 1
WIDTH = LAST + 1  # counters of one process


class Stats(NamedTuple):
    """What the server has seen. `first_s`, `last_s`: of the monotonic clock, when the first call came and the
    last answer went; 0 where there was none.
    """

    calls: int
    by_kind: dict[str, int]
    faults: dict[str, int]
    first_s: float
    last_s: float

    @property
    def seconds(self) -> float:
        """From the first call to the last answer."""
        return self.last_s - self.first_s


class Shared(NamedTuple):
    """Memory that all processes of a server see."""

    counters: ctypes.Array[ctypes.c_double]
    seen: ctypes.Array[ctypes.c_uint8]


class Server(NamedTuple):
    """A running server. `url`: its root. `pids`: its processes."""

    url: str
    pids: tuple[int, ...]
    shared: Shared

    def stats(self) -> Stats:
        """The counters, summed over the processes."""
        return read_stats(self.shared)

    def reset(self) -> None:
        """Forget all that was seen. No call may be in flight."""
        reset(self.shared)

    def cpu_s(self) -> float:
        """CPU seconds that the server has used so far."""
        times = [psutil.Process(pid).cpu_times() for pid in self.pids]
        return float(sum(t.user + t.system for t in times))


def read_stats(shared: Shared) -> Stats:
    """The counters, summed over the processes."""
    rows = [shared.counters[i : i + WIDTH] for i in range(0, len(shared.counters), WIDTH)]
    total = [int(sum(column)) for column in zip(*rows, strict=True)]
    by_kind = {kind.name.lower(): total[kind] for kind in Kind}
    return Stats(
        calls=sum(by_kind.values()),
        by_kind=by_kind,
        faults={fault.name.lower(): total[len(Kind) + fault] for fault in Fault},
        first_s=min((row[FIRST] for row in rows if row[FIRST]), default=0.0),
        last_s=max(row[LAST] for row in rows),
    )


def reset(shared: Shared) -> None:
    """Zero the counters and forget which bodies were seen."""
    for array in shared:
        ctypes.memset(array, 0, ctypes.sizeof(array))


class Http(asyncio.Protocol):
    """One connection. Requests are answered in the order in which they came."""

    def __init__(self, behaviour: Behaviour, shared: Shared, process: int) -> None:
        self._behaviour = behaviour
        self._shared = shared
        self._base = process * WIDTH
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while (head := buffer.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(buffer, 0, head + 2)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(buffer) < end:
                return
            target = bytes(buffer[: buffer.find(b" HTTP", 0, head)])
            body = bytes(buffer[head + 4 : end])
            del buffer[:end]
            if target == b"POST /v1/chat/completions":
                self._chat(body)
            else:
                self._send(self._other(target, body))

    def _chat(self, body: bytes) -> None:
        counters, base = self._shared.counters, self._base
        if not counters[base + FIRST]:
            counters[base + FIRST] = time.monotonic()
        key, seen = digest(body), 0
        if self._behaviour.faulty:
            slot = int.from_bytes(key, "big") % SEEN_SLOTS
            seen = self._shared.seen[slot]
            self._shared.seen[slot] = min(seen + 1, 255)
        said = say(body, key, seen, self._behaviour)
        counters[base + said.kind] += 1
        if said.fault is not None:
            counters[base + len(Kind) + said.fault] += 1
        if self._behaviour.latency_s:
            self._loop.call_later(self._behaviour.latency_s, self._answer, said.wire)
        else:
            self._answer(said.wire)

    def _answer(self, wire: bytes) -> None:
        self._send(wire)
        self._shared.counters[self._base + LAST] = time.monotonic()

    def _send(self, wire: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire)

    def _other(self, target: bytes, body: bytes) -> bytes:
        """What is not a call: tokens (one for each letter), the served model, health and the counters."""
        reply: Any = {}
        match target:
            case b"POST /tokenize":
                reply = {"tokens": [ord(letter) for letter in orjson.loads(body)["prompt"]]}
            case b"GET /v1/models":
                reply = {"object": "list", "data": [{"id": "loopback", "object": "model"}]}
            case b"GET /stats":
                reply = read_stats(self._shared)._asdict()
            case b"POST /reset":
                reset(self._shared)
            case b"GET /health":
                pass
            case _:
                return http(b"404 Not Found", b"{}")
        return http(b"200 OK", orjson.dumps(reply))


def _serve(
    port: int, behaviour: Behaviour, shared: Shared, process: int, core: int | None, pipe: Connection
) -> None:
    """One process: serve until the other end of `pipe` is closed, by whatever end of the parent."""
    import uvloop

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Http(behaviour, shared, process), "127.0.0.1", port, reuse_port=True, backlog=1024
        )
        closed = asyncio.Event()
        loop.add_reader(pipe.fileno(), closed.set)
        pipe.send(b"ready")
        async with server:
            await closed.wait()

    if core is not None:
        os.sched_setaffinity(0, {core})
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())


@contextlib.contextmanager
def loopback(
    behaviour: Behaviour = Behaviour(),  # noqa: B008 - a tuple
    processes: int = 2,
    core: int | None = None,
    port: int = 0,
) -> Iterator[Server]:
    """Serve on a loopback port (0: a free one) until the block ends. `core`: where all its processes run."""
    context = multiprocessing.get_context("spawn")
    shared = Shared(RawArray(ctypes.c_double, processes * WIDTH), RawArray(ctypes.c_uint8, SEEN_SLOTS))
    with socket.socket() as held, contextlib.ExitStack() as stack:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", port))  # keeps the port for the processes; nothing is accepted here
        port = held.getsockname()[1]
        pids = []
        for process in range(processes):
            ours, theirs = context.Pipe()
            child = context.Process(
                target=_serve, args=(port, behaviour, shared, process, core, theirs), daemon=True
            )
            child.start()
            theirs.close()
            stack.callback(child.join)
            stack.callback(ours.close)
            ours.recv()
            pids.append(child.pid or 0)
        yield Server(f"http://127.0.0.1:{port}", tuple(pids), shared)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--processes", type=int, default=2)
    for name, default in Behaviour()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    port, processes = options.pop("port"), options.pop("processes")
    with (
        loopback(Behaviour(**options), processes, port=port) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        sys.stderr.write(f"serving on {server.url}; end with Ctrl-C\n")
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
