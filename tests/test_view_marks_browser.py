"""In a real Chromium: from a plan over blind marks to the judge's figure, and a draft typed and kept."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from cai.marks.figures import audit_figures
from cai.marks.mark import read_marks
from cai.marks.plan import read_audit
from tests.browser import DARK, LIGHT, PHONE, Visit, severe, sideways
from tests.view_run import CONSTITUTION, judged_run, judgments, viewer

pytestmark = pytest.mark.slow


def at(client: httpx.Client, path: str) -> str:
    """The address of a page with the viewer's token."""
    return str(client.base_url.join(path).copy_merge_params({"token": "secret"}))


def test_from_marks_to_a_figure(tmp_path: Path, visit: Visit) -> None:
    """A person plans, marks and reads the figure; no page has a serious finding of axe, or scrolls sideways."""
    run = judged_run(tmp_path, judgments(60))
    with viewer(run) as client:
        page = visit(at(client, "/audit"), LIGHT)
        assert severe(page) == []
        page.get_by_label("known to").fill("25")
        page.get_by_role("button", name="Plan").click()
        page.get_by_role("link", name="Mark the next row").click()
        audit = read_audit(run)
        assert audit is not None
        for number in range(5):
            if not number:
                page.get_by_label("your name").fill("Ann")
                assert severe(page) == []
            page.get_by_role("button", name="The first is better").click()
        assert "5 of" in page.get_by_role("status").inner_text()
        page.get_by_role("link", name="The audit").click()
        shown = page.get_by_role("row", name="labels").inner_text()
        figures = audit_figures(audit, read_marks(run).rows)
        assert page.locator("#marked").inner_text() == "5" == str(figures.marked)
        assert f"{100 * (figures.labels.rate or 0):.1f} %" in shown
        assert f"{100 * (figures.labels.low or 0):.1f} % to {100 * (figures.labels.high or 0):.1f} %" in shown
        for look, path in (
            (DARK, "/audit"), (DARK, "/marks"), (PHONE, "/audit/next"), (PHONE, "/try"),
            (PHONE, "/draft?principle=kind&prompt=p1"), (PHONE, "/story?prompt=p1"),
        ):  # fmt: skip
            other = visit(at(client, path), look)
            assert severe(other) == [] and sideways(other) == 0, path


def test_a_row_is_flipped_and_a_draft_kept(tmp_path: Path, visit: Visit) -> None:
    """The buttons of a story mark the row; the form of a principle keeps a draft and shows its difference."""
    run = judged_run(tmp_path, judgments(4))
    with viewer(run) as client:
        page = visit(at(client, "/story?prompt=p1"))
        page.get_by_label("note").fill("<b>b is kinder</b>")
        page.get_by_role("button", name="Flip").click()
        assert "Flipped" in page.locator(".mark").inner_text()
        assert "<b>b is kinder</b>" in page.locator(".mark").inner_text()
        page.get_by_role("link", name="Edit kind and try it here").click()
        page.get_by_label("statement:").fill("Be mild: always.")
        page.get_by_role("button", name="Keep the draft").first.click()
        assert '+    statement: "Be mild: always."' in page.locator("pre.diff").inner_text()
        assert severe(page) == []
    assert read_marks(run).rows[0].mark == "flip"
    assert (tmp_path / "edited.yaml").read_text() == CONSTITUTION
