"""The viewer's pages in Chromium: no serious finding of axe, none wider than a phone, links and keys that work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import DARK, LIGHT, PHONE, Look, Visit, severe, sideways
from tests.view_run import judged_run, judgment, judgments
from tests.view_server import Viewer, viewer

pytestmark = pytest.mark.slow
PAGES = ("/", "/table/judgments?state=labelled", "/story?prompt=p1", "/compare")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A run of sixty judgments, compared with a smaller one."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [*judgments(60), judgment(1, note=" \u202eword" * 40)][1:]
    new, old = (judged_run(folder / name, some) for name, some in (("new", rows), ("old", rows[:40])))
    with viewer(new, old) as opened:
        yield opened


@pytest.mark.parametrize("look", [LIGHT, DARK, PHONE], ids=["light", "dark", "phone"])
def test_pages_can_be_read_by_all(served: Viewer, visit: Visit, look: Look) -> None:
    """Contrast, labels, landmarks, and nothing that has to be scrolled sideways; the policy lets its own script run."""
    page = visit(served.address, look)
    assert "token" not in page.url
    for path in PAGES:
        page.goto(f"http://127.0.0.1:{served.view.settings.port}{path}")
        assert severe(page) == [], path
        assert sideways(page) == 0, path


def test_rows_are_reached_by_keys_and_lists_apply_at_once(served: Viewer, visit: Visit) -> None:
    """From the table to a story and to the next page without a mouse; a chosen filter is in the address."""
    page = visit(served.address)
    page.goto(f"http://127.0.0.1:{served.view.settings.port}/table/judgments")
    page.keyboard.press("n")
    page.wait_for_url("**/table/judgments?after=*")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/story?prompt=*")
    page.go_back()
    page.select_option("#state", "unparsed")
    page.wait_for_url("**state=unparsed**")
    assert "q=" not in page.url
    assert page.locator("p[role=status] strong").inner_text() == str(page.locator("a.row").count())


def test_pages_work_without_script(served: Viewer, visit: Visit) -> None:
    """The same filter by its button."""
    page = visit(served.address, java_script_enabled=False)
    page.goto(f"http://127.0.0.1:{served.view.settings.port}/table/judgments")
    page.select_option("#state", "unparsed")
    page.click("text=Show")
    assert "state=unparsed" in page.url and page.locator("a.row").count() > 0


def test_pages_name_no_other_machine(served: Viewer) -> None:
    """Neither styles nor scripts come from elsewhere."""
    for path in (*PAGES, "/static/view.css", "/static/view.js"):
        assert "//" not in served.page(path).replace("://127.0.0.1", "").replace("// ", "")
    assert (Path(__file__).parent.parent / "cai" / "view" / "static" / "view.js").is_file()
