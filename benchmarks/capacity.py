"""How many calls a second the loopback server takes, and what one costs it, so that no client waits for it.

The load is as light as a client can be: prebuilt bytes on open connections, replies counted and not read. The share of
its CPU time in the client's tells how far the server is from being the bottleneck, also on a busy machine.

    python -m benchmarks.capacity
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import orjson
import uvloop

from benchmarks.job import critique_prompt
from benchmarks.loopback import loopback
from benchmarks.replies import Behaviour
from benchmarks.tables import Column, print_table, save

COLUMNS = (
    Column("processes", "processes"),
    Column("calls", "calls", "{:,.0f}"),
    Column("calls_per_s", "calls/s", "{:,.0f}"),
    Column("server_cpu_s_per_1000", "server CPU s/1,000", "{:.4f}"),
    Column("load_cpu_s_per_1000", "load CPU s/1,000", "{:.4f}"),
    Column("calls_per_s_a_core", "calls/s a core", "{:,.0f}"),
)


class Load(asyncio.Protocol):
    """A connection that sends the next request when the reply has come, until no more are to be sent."""

    def __init__(self, wire: bytes, left: list[int], done: asyncio.Event) -> None:
        self._wire, self._left, self._done = wire, left, done
        self._missing = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head = data.index(b"\r\n\r\n") + 4
            start = data.index(b"Content-Length: ") + 16
            self._missing = head + int(data[start : data.index(b"\r", start)])
        self._missing -= len(data)
        if not self._missing:
            self._left[1] -= 1
            self._next()

    def _next(self) -> None:
        if not self._left[1]:
            self._done.set()
        if self._left[0] and self._transport is not None:
            self._left[0] -= 1
            self._transport.write(self._wire)


async def load(port: int, wire: bytes, calls: int, connections: int) -> None:
    """Make `calls` calls over `connections` connections."""
    left, done = [calls, calls], asyncio.Event()
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Load(wire, left, done), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await done.wait()
    for transport, _ in opened:
        transport.close()


def measure(processes: int, calls: int, connections: int) -> dict[str, Any]:
    """One server under load."""
    question = critique_prompt("What is it? " * 40, "It is this. " * 40)
    body = orjson.dumps({"model": "loopback", "messages": [{"role": "user", "content": question}]})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: loopback\r\nContent-Length: %d\r\n\r\n" % len(body)
    with loopback(Behaviour(), processes) as server:
        before, own, started = server.cpu_s(), time.process_time(), time.monotonic()
        uvloop.run(load(int(server.url.rpartition(":")[2]), head + body, calls, connections))
        seconds, stats = time.monotonic() - started, server.stats()
        cpu = server.cpu_s() - before
        return {
            "processes": processes,
            "calls": stats.calls,
            "calls_per_s": calls / seconds,
            "server_cpu_s_per_1000": cpu / calls * 1000,
            "load_cpu_s_per_1000": (time.process_time() - own) / calls * 1000,
            "calls_per_s_a_core": calls / cpu,
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure with one process and with more; print and save the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options = parser.parse_args(arguments)
    rows = [measure(count, options.calls, options.connections) for count in options.processes]
    save("capacity", {"rows": rows})
    if options.json:
        sys.stdout.buffer.write(orjson.dumps({"rows": rows}) + b"\n")
        return
    print_table("the loopback server alone", COLUMNS, rows)


if __name__ == "__main__":
    main()
