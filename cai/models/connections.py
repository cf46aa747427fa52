"""Connections that are used again only where nothing has come over them since their last reply.

A reply belongs to a request only by its place on the connection. Where a server or proxy sends a reply twice, or a
late one, the next request on that connection would be answered with another one's text. So such a connection is
closed, and the request goes out over a new one. What arrives after the request has gone out cannot be told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

if TYPE_CHECKING:
    from httpx2 import AsyncClient

T = TypeVar("T", bound="AsyncClient")


class CleanConnector(aiohttp.TCPConnector):
    """Hands out no connection with bytes on it that nobody has asked for."""

    async def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection for one request."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


def clean(client: T) -> T:
    """An SDK's aiohttp client, before its first request, with such connections where it goes through no proxy."""
    transport: Any = client._transport

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=CleanConnector(
                limit=transport.limits.max_connections,
                keepalive_timeout=transport.limits.keepalive_expiry,
                ssl=transport.ssl_context,
            )
        )

    transport.client = session
    return client
