"""The report page and `filter.json` of run folders made by hand: complete, stale, half done, hostile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai.config import RunConfig
from cai.errors import StoreError
from cai.publish import publish_rows
from cai.report.filter import write_filter
from cai.report.page import write_report
from cai.rows import Judgment
from cai.runfolder.hold import start_run
from tests.flows.small import small_run
from tests.test_filter import HAND, judgment

HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}\x1b[31m\u202e"


def run_folder(folder: Path, judgments: Sequence[Judgment] | None, **changes: Any) -> RunConfig:
    """A run of one shard in which only the judge has published anything; None: not even that."""
    config = small_run(folder, "http://unused/v1", shards=1, **changes)
    with start_run(config):
        pass
    if judgments is not None:
        publish_rows(config.root, "judge", 0, str(len(judgments)), judgments)
    return config


def body(config: RunConfig) -> str:
    """The page without plotly's own source."""
    page = write_report(config).read_text()
    return page[page.index("<body>") :]


def test_the_page_shows_what_the_filter_keeps(tmp_path: Path) -> None:
    """Coverage with its interval, states, values of every group and both plots, although nothing was evaluated."""
    config = run_folder(tmp_path, HAND)
    page = body(config)
    assert "3 of 7 judgments are kept,\n42.9 [16, 75] %" in page
    for text in (
        "below threshold 1",
        "refused 0",
        "revision over reply",
        "share of each tag",
        "at least 0.6",
    ):
        assert text in page
    assert page.count('<figure class="plot">') == 5  # with the stages
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "No reply was revised." in page


def test_a_run_without_a_judge_has_a_page(tmp_path: Path) -> None:
    """A run that ended before its judge is reported as far as it went."""
    config = run_folder(tmp_path, None)
    assert "has not labelled all pairs" in body(config)
    assert not (config.root / "filter.json").exists()
    with pytest.raises(StoreError):
        write_filter(config)


def test_nothing_kept_and_nothing_judged_have_a_page(tmp_path: Path) -> None:
    """Shares of nothing are dashes."""
    for name, rows in (("none", []), ("lost", [judgment(0.55, "below_threshold", tags=("t", "u"))])):
        folder = tmp_path / name
        folder.mkdir()
        page = body(run_folder(folder, rows))
        assert f"0 of {len(rows)} judgments are kept" in page and "–" in page


def test_only_clear_shifts_stand_out(tmp_path: Path) -> None:
    """Three of seven judgments prove nothing; a tag of which all is lost does."""
    assert "<strong>" not in body(run_folder(tmp_path, HAND))
    rows = [judgment(0.9, "labelled", tags=("good",))] * 40
    rows += [judgment(0.55, "below_threshold", tags=("lost",), source="other")] * 40
    config = run_folder(tmp_path, rows)
    assert body(config).count("<strong>") == 4  # two sources, two tags
    assert "<strong>-50.0</strong>" in body(config)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Sources and tags are neither markup nor templates nor controls, in tables, notes and plots."""
    rows = [judgment(0.9, "labelled", tags=("good",), source=HOSTILE)] * 40
    rows += [judgment(0.55, "below_threshold", tags=(HOSTILE,), source="s")] * 40
    config = run_folder(tmp_path, rows)
    page = body(config)
    assert any(HOSTILE in note for note in json.loads((config.root / "filter.json").read_text())["notes"])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}\ufffd[31m\ufffd" in page
    assert not any(char in page for char in "\x1b\u202e")


def test_many_values_are_cut_on_the_page_only(tmp_path: Path) -> None:
    """The page shows the largest 15 and sums up the others; the JSON has all."""
    rows = [judgment(0.9, "labelled", source=f"s{index}") for index in range(40)]
    rows += [judgment(0.9, "labelled", source="large")] * 2
    config = run_folder(tmp_path, rows)
    page = body(config)
    assert "26 others" in page and page.count('<td class="name">s') == 14
    found = json.loads((config.root / "filter.json").read_text())
    assert len(found["source"]) == 41 and next(iter(found["source"])) == "large"


def test_the_filter_is_counted_again_only_where_its_inputs_changed(tmp_path: Path) -> None:
    """An untouched run is not read again; other judgments and another threshold are."""
    config = run_folder(tmp_path, HAND)
    path = config.root / "filter.json"
    first = write_filter(config)
    assert first == json.loads(path.read_text())
    before = path.stat().st_mtime_ns
    assert write_filter(config) == first and path.stat().st_mtime_ns == before
    publish_rows(config.root, "judge", 0, "other", HAND[:2])
    assert write_filter(config)["judged"] == 2
    judge = config.judge.model_copy(update={"threshold": 0.9})
    assert write_filter(config.model_copy(update={"judge": judge}))["threshold"] == 0.9


def test_only_pairs_that_may_train_are_counted(tmp_path: Path) -> None:
    """Revisions that were judged for the demonstrations alone are no part of the preference data."""
    config = run_folder(tmp_path, HAND, pairs={"sources": ["samples"]})
    found = write_filter(config)
    assert list(found["kind"]) == ["reply over reply"] and found["judged"] == 5
