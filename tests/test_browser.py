"""The browser of the tests: what it sees of a page, and what it does not let through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import DARK, LIGHT, PHONE, Visit, find_chromium, severe, sideways, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
GOOD = "<!doctype html><html lang=en><title>t</title><main><h1>A page</h1><p>Text</p></main>"
CLOSED = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Path]:
    """A file for a page."""
    yield tmp_path / "page.html"


def test_axe_sees_what_is_wrong(write: Path, visit: Visit) -> None:
    """A page with an unlabelled field is found out, one without is not, also where it allows no script."""
    write.write_text(GOOD.replace("<title>", CLOSED + "<title>"))
    assert severe(visit(write)) == []
    write.write_text(GOOD + "<input>")
    assert any("label (critical)" in line for line in severe(visit(write)))


def test_looks_reach_the_page(write: Path, visit: Visit) -> None:
    """Scheme and width are those asked for; what is wider than a phone is told."""
    write.write_text(GOOD + "<div style='width: 700px'>wide</div>")
    dark = "() => matchMedia('(prefers-color-scheme: dark)').matches"
    assert [visit(write, look).evaluate(dark) for look in (LIGHT, DARK)] == [False, True]
    assert sideways(visit(write)) == 0 < sideways(visit(write, PHONE))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<img src='https://example.org/x.png'>", "another machine.*example.org"),
        ("<script>new WebSocket('ws://example.org/')</script>", "another machine.*example.org"),
        ("<script>throw new Error('broken')</script>", "script failed.*broken"),
    ],
)
def test_network_and_errors_fail_the_test(body: str, reason: str, write: Path, browser: Browser) -> None:
    """A page that asks other machines, or whose script breaks, does not pass in silence."""
    write.write_text(GOOD + body)
    with pytest.raises(AssertionError, match=reason), watched(browser) as opened:
        opened(write).wait_for_timeout(200)


def test_a_named_chromium_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's choice wins; else the first of the path, else Playwright's own file where it exists."""

    class Here:
        class chromium:
            executable_path = "/nowhere/chrome"

    monkeypatch.setenv("PATH", "/nowhere")
    assert find_chromium(Here) is None  # type: ignore[arg-type]
    Here.chromium.executable_path = __file__
    assert find_chromium(Here) == __file__  # type: ignore[arg-type]
    monkeypatch.setenv("CAI_TEST_CHROMIUM", "/opt/chrome")
    assert find_chromium(Here) == "/opt/chrome"  # type: ignore[arg-type]
