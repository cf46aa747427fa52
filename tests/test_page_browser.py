"""The report page in a real Chromium: drawn, accessible and in its window in every look, and deaf to hostile text."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai.report.page import write_report
from tests.browser import LIGHT, LOOKS, PHONE, Look, Visit, severe, sideways
from tests.report_run import add_training, finished_run, hostile

pytestmark = pytest.mark.slow
DRAWN = "figure.plot > .drawing svg.main-svg:first-child"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small run with trainings."""
    config = finished_run(tmp_path_factory.mktemp("run"))
    add_training(config.root)
    return write_report(config)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_the_page_is_accessible(report: Path, visit: Visit, look: Look) -> None:
    """Every plot is drawn; axe-core finds nothing serious; only tables are scrolled sideways."""
    page = visit(report, look)
    plots = page.locator("figure.plot").count()
    assert page.locator(DRAWN).count() == plots >= 9
    for summary in page.locator("details.figures > summary").all():
        summary.click()
    assert severe(page) == [] and sideways(page) == 0
    wide = page.locator(".drawing").evaluate_all("boxes => Math.max(...boxes.map(box => box.scrollWidth))")
    assert wide <= look.width


def test_text_in_plots_can_be_read_in_both_schemes(report: Path, visit: Visit) -> None:
    """axe-core does not look into drawings: their text has the page's colour, also after the scheme has changed."""
    page = visit(report, LIGHT)
    colours = "texts => [...new Set(texts.map(text => getComputedStyle(text).fill))]"
    assert page.locator(".drawing text").evaluate_all(colours) == ["rgb(17, 17, 17)"]
    page.emulate_media(color_scheme="dark")
    assert page.locator(".drawing text").evaluate_all(colours) == ["rgb(238, 238, 238)"]


def test_contents_lead_to_every_section(report: Path, visit: Visit) -> None:
    """Each link of the page has its target within it."""
    page = visit(report, PHONE)
    targets = page.locator("a[href^='#']").evaluate_all(
        "links => links.map(link => link.getAttribute('href'))"
    )
    assert len(targets) > 10 and all(page.locator(target).count() == 1 for target in targets)


def test_the_page_prints(report: Path, visit: Visit) -> None:
    """On paper: light, without what can only be clicked, with plots that fit, and as before afterwards."""
    page = visit(report, LOOKS["dark"])
    before = page.locator(".drawing").first.evaluate("box => box.querySelector('svg').clientWidth")
    page.emulate_media(media="print")
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("nav").is_visible() and not page.locator("summary").first.is_visible()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".drawing").first.evaluate("box => box.querySelector('svg').clientWidth") == 680
    page.emulate_media(media="screen")
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    page.wait_for_function(
        "width => document.querySelector('.drawing svg').clientWidth === width", arg=before
    )


def test_hostile_text_runs_nothing(tmp_path: Path, visit: Visit) -> None:
    """No script of a reply runs, no image is asked for (`visit` fails on any), and all plots are drawn."""
    config = finished_run(tmp_path, hostile)
    page = visit(write_report(config))
    assert page.title() == "small: cai report" and page.locator("img").count() == 0
    assert page.locator(DRAWN).count() == page.locator("figure.plot").count() > 5
    assert "</script></blockquote>" in page.locator("#examples article").first.inner_text()


def test_a_script_that_got_in_would_not_run(report: Path, tmp_path: Path, visit: Visit) -> None:
    """The policy holds by itself: a foreign script, a handler and a picture in the page do nothing."""
    picture = '<img src="https://example.org/x" onerror="document.title=1">'
    planted = f"<script>document.title=2</script>{picture}"
    path = tmp_path / "planted.html"
    path.write_text(report.read_text().replace("<main", f"{planted}<main"))
    page = visit(path)
    page.wait_for_timeout(200)
    assert page.title() == "small: cai report"
