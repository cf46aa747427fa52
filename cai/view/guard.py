"""Who may see a page: requests for this host, by whoever has the token, and changes only from this very site.

The host is checked against DNS rebinding (another site's name that resolves to 127.0.0.1). The token comes once, in the
printed address, and lives in a cookie from then on. Pages of other ports of this machine count as the same site to a
browser, so the cookie alone proves nothing about who posts a form: the origin does.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cai.view.pages import problem_page
from cai.view.state import Settings

READING = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",  # with no-referrer a browser would hide the origin of our own forms
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """`app` behind the checks, with headers on every answer that keep other sites and injected markup out."""
    cookie = f"cai_view_{settings.port}"  # cookies know no ports: two viewers would overwrite each other's

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = _refused(scope, settings, cookie) or app
        await answer(scope, receive, with_headers)

    return handle


def _refused(scope: Scope, settings: Settings, cookie: str) -> ASGIApp | None:
    """What to answer instead of the page; None where the page may be seen."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not known_host(host, settings):
        return problem_page(421, "This address is not the viewer's; open the address that cai view printed.")
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    given = dict(query).get("token")
    if given is not None and scope["method"] in READING and _same(given, settings.token):
        rest = urlencode([(name, value) for name, value in query if name != "token"], encoding="latin-1")
        path = "/" + quote(scope["path"].lstrip("/\\"))  # //name would be another site
        there = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        there.set_cookie(cookie, settings.token, httponly=True, samesite="strict")
        return there
    if not _same(_cookies(headers).get(cookie, ""), settings.token):
        return problem_page(403, "No token; open the address that cai view printed, with its token.")
    if scope["method"] not in READING and headers.get("origin") != f"http://{host}":
        return problem_page(403, "This form was sent from another site; nothing was changed.")
    return None


def known_host(host: str, settings: Settings) -> bool:
    """Whether a Host header names this server. One that listens on all addresses goes by any of them, or its name."""
    name, port = _parted(host)
    if port != settings.port:
        return False
    if name in (settings.host, "localhost", "127.0.0.1", "::1"):
        return True
    try:
        listening = ipaddress.ip_address(settings.host)
    except ValueError:
        return False
    if not listening.is_unspecified:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in (socket.gethostname().lower(), socket.getfqdn().lower())
    return True


def _parted(host: str) -> tuple[str, int | None]:
    """Name and port of a Host header; port None where it is no number."""
    name, separator, port = host.rpartition(":")
    if not separator or host.endswith("]"):
        name, port = host, "80"
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else None
    return name.lower().removeprefix("[").removesuffix("]"), number


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
