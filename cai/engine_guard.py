"""Who a managed vLLM server answers: whoever has the run's key, and nobody else, whatever the path.

vLLM's own check covers the paths of its APIs; tokenizing, metrics and all else would be open to every user of the
machine. The server loads this as one more layer in front, by its flag `--middleware`.
"""

from __future__ import annotations

import hmac
import os

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """`app` for those who have the key of the environment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._wanted = b"Bearer " + os.environ["VLLM_API_KEY"].encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with status 401 where the key is not there."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if hmac.compare_digest(given, self._wanted):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await JSONResponse({"error": {"message": "no key, or not this server's"}}, 401)(
                scope, receive, send
            )
