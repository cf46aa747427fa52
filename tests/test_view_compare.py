"""Two versions of a run side by side: exactly the rows that changed, in each way, with their words."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cai.rows import Judgment, Revision
from cai.store import read_rows
from tests.view_run import judged_run, judgment
from tests.view_server import Viewer, edited_run, viewer


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A run that keeps the version before the last edit of its constitution."""
    with viewer(edited_run(tmp_path_factory.mktemp("edited"))) as opened:
        yield opened


def all_rows(opened: Viewer, **query: object) -> dict[str, str]:
    """Every page of a comparison: ids with what changed."""
    found: dict[str, str] = {}
    page = opened.page("/compare", 200, **query)
    while True:
        rows = re.findall(
            r'<h2 class="small">([^<]*)</h2>\s*<p class="meta"><span class="tag">([^<]*)<', page
        )
        assert not found.keys() & dict(rows).keys()
        found |= dict(rows)
        link = re.search(r'<a rel="next" href="([^"]*)"', page)
        if link is None:
            return found
        page = opened.page(html.unescape(link[1]))


def test_an_edit_is_told_row_by_row(edited: Viewer) -> None:
    """The version that the run keeps is what it is compared with, without being named."""
    run = edited.view.root
    assert edited.view.other is not None and edited.view.other.run == run / "previous"
    assert "honest reworded (statement)" in edited.page("/compare")
    was, now = (
        {row.id: row for path in folder.glob("revise/rows-*") for row in read_rows(path, Revision)}
        for folder in (run / "previous", run)
    )
    rewritten = {name for name, row in now.items() if was[name].final != row.final}
    assert set(all_rows(edited, table="revisions", change="rewritten")) == rewritten != set()
    one = min(rewritten)
    page = edited.page("/story", prompt=was[one].reply.prompt.id, of="other")
    assert was[one].final in html.unescape(page) and "As it is in" in page


def test_each_change_is_counted_once(tmp_path: Path) -> None:
    """Labels that turned or went, moved probabilities, other texts, new and lost rows; what is the same is not."""
    old = [judgment(0), judgment(1), judgment(2), judgment(3), judgment(4), judgment(5)]
    new = [
        judgment(0),
        judgment(1, 0.1),
        judgment(2, 0.6),
        judgment(3, 0.95),
        judgment(4).model_copy(update={"a": judgment(9).a.model_copy(update={"id": "p4/r0"})}),
        judgment(6),
    ]
    for name, rows in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        judged_run(tmp_path / name, rows)
    runs = [tmp_path / name / "outputs" / "small" for name in ("new", "old")]
    with viewer(runs[0], runs[1]) as opened:
        found = all_rows(opened)
        counts = Counter(found.values())
        assert found["p1/r0~p1/r0/v"] == "label for the other side"
        assert found["p2/r0~p2/r0/v"] == "other state"
        assert found["p3/r0~p3/r0/v"] == "same label, other p"
        assert found["p4/r0~p4/r0/v"] == "other texts"
        assert (
            found["p6/r0~p6/r0/v"] == "only in this run" and found["p5/r0~p5/r0/v"] == "only in the other run"
        )
        assert len(found) == 6 and set(counts.values()) == {1}
        assert list(all_rows(opened, sort="moved"))[:2] == ["p1/r0~p1/r0/v", "p2/r0~p2/r0/v"]
        assert set(all_rows(opened, by="0.2")) == {"p1/r0~p1/r0/v", "p2/r0~p2/r0/v"}
        assert set(all_rows(opened, q="ABOUT 3")) == {"p3/r0~p3/r0/v"}
        assert (
            all_rows(opened, tag="absent") == {} and len(all_rows(opened, tag="one", principle="kind")) == 6
        )
        assert "<del>" in opened.page("/compare", change="rewritten")


def test_without_another_run_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """And the page says how to get one."""
    judged_run(tmp_path, [judgment(0)])
    with viewer(tmp_path / "outputs" / "small") as opened:
        assert "--against OTHER" in opened.page("/compare", 400)
        assert 'href="/compare"' not in opened.page("/")
        assert len(list(read_rows(opened.view.root / "judge" / "rows-00000.jsonl", Judgment))) == 1
