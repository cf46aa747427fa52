"""A real headless Chromium for tests of pages: found on the machine, cut off from the network, with axe-core.

Fixtures: `visit` opens an address or a file in a look (`LIGHT`, `DARK`, `PHONE`) and returns Playwright's page;
`browser` is the Chromium behind it, one for each test file. While it lives, an event loop counts as running in the
process, so a file that uses it holds no async tests. A test fails when its page asks for anything that is not on this
machine, or throws an error that nothing catches. Without a Chromium such tests are skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:  # the tests without a browser do not wait for it
    from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Route

CHROMIUM = "CAI_TEST_CHROMIUM"  # environment variable: the path of a Chromium or Chrome
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_HOST = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1, EXCLUDE [::1]"
HERE = ("localhost", "127.0.0.1", "::1")
LOCAL_SCHEMES = ("file", "data", "blob", "about")
WAIT_MS = 240_000  # for anything: a busy machine is slow, and the test's own time limit ends what hangs
SEVERE = ("serious", "critical")


class Look(NamedTuple):
    """A window: its size in CSS pixels and the colour scheme that it asks for."""

    width: int
    height: int
    scheme: Literal["light", "dark"]


LIGHT, DARK, PHONE = Look(1280, 900, "light"), Look(1280, 900, "dark"), Look(390, 844, "light")
LOOKS = {"light": LIGHT, "dark": DARK, "phone": PHONE}

Visit = Callable[..., "Page"]


def find_chromium(playwright: Playwright) -> str | None:
    """The Chromium to use: the environment's, the system's, or the one that Playwright itself has downloaded."""
    own = playwright.chromium.executable_path
    found = (os.environ.get(CHROMIUM), *map(shutil.which, NAMES), own if Path(own).is_file() else None)
    return next(filter(None, found), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium that resolves no name but this machine's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            pytest.skip(f"no Chromium: set {CHROMIUM}, or install one ({', '.join(NAMES)})")
        sandbox = os.geteuid() != 0  # Chromium refuses to have one as root
        chromium = playwright.chromium.launch(
            executable_path=path, args=[NO_HOST], chromium_sandbox=sandbox, timeout=WAIT_MS
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """`visit(address, look=LIGHT, **context)`: a page at a URL or of a file; `context`: Playwright's new_context."""
    with watched(browser) as opened:
        yield opened


@contextmanager
def watched(browser: Browser) -> Iterator[Visit]:
    """What `visit` does; raises AssertionError at its end where a page asked another machine or its script failed."""
    contexts: list[BrowserContext] = []
    foreign: list[str] = []
    thrown: list[str] = []

    def route(asked: Route) -> None:
        if _local(asked.request.url):
            return asked.continue_()
        foreign.append(asked.request.url)
        return asked.abort()

    def opened(address: str | Path, look: Look = LIGHT, **options: Any) -> Page:
        size: Any = {"width": look.width, "height": look.height}
        context = browser.new_context(viewport=size, color_scheme=look.scheme, **options)
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        context.route("**/*", route)
        page = context.new_page()
        page.on("pageerror", lambda error: thrown.append(str(error)))
        page.on("websocket", lambda socket: foreign.extend(() if _local(socket.url) else (socket.url,)))
        page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not foreign, f"the page asked another machine: {foreign}"
    assert not thrown, f"the page's script failed: {thrown}"


def severe(page: Page, within: str | None = None) -> list[str]:
    """What axe-core finds serious or critical on a page or in a CSS selector of it: a line for each element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, within).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}) at {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for rule in found
        if rule["impact"] in SEVERE
        for node in rule["nodes"]
    ]


def sideways(page: Page) -> int:
    """By how many pixels the page is wider than its window: 0 where nobody has to scroll it sideways."""
    return int(page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth"))


def _local(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in LOCAL_SCHEMES or parts.hostname in HERE
