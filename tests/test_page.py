"""What the report page shows of single rows, lengths, tags, trainings and lineage; and what it never lets through."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import median as exact_median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.config import RunConfig
from cai.pipeline import read_stage
from cai.report.filter import judge_stage
from cai.report.page import write_report
from cai.report.page.curves import POINTS, read_log
from cai.report.page.lengths import lengths_view, median
from cai.report.page.rows import CUT, cut
from cai.report.page.scan import (
    EXAMPLES,
    WORST,
    Best,
    changed_share,
    empty_scan,
    keep,
    length_bin,
    scan_revisions,
)
from cai.report.plots import visible, visible_text
from cai.rows import Judgment, Message, Prompt, Reply, Revision
from tests.report_run import HOSTILE, add_training, finished_run, hostile

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12).map(" ".join)


def revision(number: int, before: str, after: str) -> Revision:
    """A revision of one text into another."""
    prompt = Prompt(id=f"p{number}", messages=(Message(role="user", content="?"),), tags=("t",), source="s")
    reply = Reply(
        id=f"p{number}/r0", prompt=prompt, sample=0, text=before, finish_reason="stop", model="m", calls=()
    )
    return Revision(id=f"p{number}/r0/v", reply=reply, rounds=(), final=after)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A small run that ended, with trainings."""
    config = finished_run(tmp_path_factory.mktemp("run"))
    add_training(config.root)
    return config


class Seen(HTMLParser):
    """The headings, scripts' kinds and text of a page, and what it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.kinds: list[str | None] = []
        self.outside: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.kinds += [found.get("type")] if tag == "script" else []
        self.outside += [
            str(found[name]) for name in ("src", "href") if not str(found.get(name, "#")).startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_every_part(run: RunConfig) -> None:
    """Lineage, stages, principles, confidence, lengths, tags, evaluation, curves, examples and the worst rows."""
    page = write_report(run).read_text()
    seen = Seen(page[page.index("<body>") :])
    for title in (
        "Where it comes from", "Did it help?", "From prompts to pairs", "Principles", "Confidence",
        "Position and length bias", "Length before and after the revision", "Results by tag", "Training",
        "Worst offenders", "Grew most", "Nearly unchanged", "Kept with the least confidence", "Most inconsistent",
        "Made worse, says the judge", "Revisions, drawn at random", "Not on this page",
    ):  # fmt: skip
        assert seen.text.count(title) >= 1, title
    for fact in (
        "small 1, 3 principles",
        "seed 0",
        "prompts.jsonl",
        "tags helpful",
        "trl 1.16.0",
        "python 3",
    ):
        assert fact in seen.text, fact
    assert json.loads((run.root / "summary.json").read_text())["versions"]["cai"] in seen.text
    assert "Several judges: there is one judge." in seen.text
    assert seen.outside == [] and seen.kinds.count(None) == 0
    drawings, data = seen.tags.count("figure"), seen.kinds.count("application/json")
    assert drawings == data >= 9 and page.count("Its figures follow.") == drawings
    levels = [int(tag[1]) for tag in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in pairwise(levels))


def test_rows_are_those_of_the_run(run: RunConfig) -> None:
    """Examples are changed revisions; the least sure label and the most torn judgment are the run's."""
    page = write_report(run).read_text()
    changed = [row for row in read_stage(run, "revise", Revision) if row.changed]
    examples = page[page.index('<section id="examples">') :]
    ids = re.findall(r"<h3>(.*?)</h3>", examples)
    assert len(ids) == len(set(ids)) == min(EXAMPLES, len(changed)) > 5
    assert set(ids) <= {row.id for row in changed}
    labelled = [row for row in read_stage(run, judge_stage(run), Judgment) if row.state == "labelled"]
    least = min(max(row.p, 1 - row.p) for row in labelled if row.p is not None)
    worst = page[page.index('id="worst-unsure"') : page.index('id="worst-torn"')]
    assert worst.count("<h4>") == WORST and f"confidence {least:.3f}" in worst
    growth = max(changed, key=lambda row: (len(row.final) - len(row.reply.text), row.id))
    grown = page[page.index('id="worst-grown"') : page.index('id="worst-near"')]
    assert re.findall(r"<h4>(.*?)</h4>", grown)[0] == growth.id


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """In replies, critiques, prompts, tags and principles: no markup, no template, nothing that steers."""
    prompts = [{"path": str(tmp_path / "prompts.jsonl"), "tags": [HOSTILE]}]
    config = finished_run(tmp_path, hostile, prompts=prompts)
    page = write_report(config).read_bytes().decode()
    body = page[page.index("<body>") :]
    seen = Seen(body)
    examples = body[body.index('<section id="examples">') :]
    assert examples.count("<article>") > 5 and examples.count("&lt;img src=") > 10
    assert "img" not in seen.tags and set(seen.kinds) == {"application/json"} and seen.outside == []
    assert "{{ 7 * 7 }}" in seen.text and "</script></blockquote>" in seen.text
    assert not any(char in page[page.index("<section") :] for char in "\x1b\x00\u202e\u2066\U000e0041")
    assert page.count("<script>") == page[: page.index("<body>")].count("<script>")
    for block in re.findall(r'<script type="application/json">(.*?)</script>', body, re.S):
        assert json.loads(block).keys() == {"data", "layout"} and "<" not in block


def test_a_log_is_read_to_its_end(run: RunConfig) -> None:
    """The later of two lines for a step counts, a cut line does not; long logs are thinned to the ends."""
    log = read_log(run.root / "models" / "dpo" / "metrics.jsonl")
    assert sorted(log) == list(range(1, 40)) and log[39]["loss"] == 0.125
    assert log[1] == {"loss": 1.0, "rewards/margins": 0.1, "rewards/accuracies": 0.75}
    path = run.root / "long.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(5000)))
    thinned = sorted(read_log(path))
    assert (thinned[0], thinned[-1]) == (0, 4999) and POINTS <= len(thinned) <= 2 * POINTS + 1
    assert read_log(run.root / "none.jsonl") == {}


@given(WORDS, WORDS)
def test_the_changed_share_is_a_bound(before: str, after: str) -> None:
    """Never below what a real diff finds, nothing where the words are the same, the same both ways."""
    old, new = before.split(), after.split()
    found = changed_share(before, after)
    matched = sum(
        block.size for block in difflib.SequenceMatcher(None, old, new, False).get_matching_blocks()
    )
    longer = max(len(old), len(new), 1)
    assert found == changed_share(after, before) and 0 <= found <= 1
    assert (found == 0) == (old == new)
    assert found >= 1 - matched / longer - 1e-9 or matched < longer - found * longer + 1e-9


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=60))
def test_the_highest_scores_are_kept(rows: list[tuple[int, int]]) -> None:
    """As sorting all of them would; a repeated id is held once."""
    best: Best[Revision] = Best(WORST, [])
    for number, score in dict(rows).items():
        keep(best, score, revision(number, "a", "b"))
        keep(best, score, revision(number, "a", "b"))
    wanted = sorted(((score, f"p{number}/r0/v") for number, score in dict(rows).items()), reverse=True)[
        :WORST
    ]
    assert [(score, row.id) for score, row in best.rows()] == wanted


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=40))
def test_lengths_are_those_of_changed_rows(lengths: list[tuple[int, int]]) -> None:
    """Means are exact, (lower) medians right to 4 %; every text is in one bar."""
    rows = [revision(at, "x" * before, "x" * after) for at, (before, after) in enumerate(lengths)]
    scan = empty_scan()
    scan_revisions(scan, rows, 0)
    changed = [(before, after) for before, after in lengths if before != after]
    view = lengths_view(scan.growth)
    assert (view is None) == (not changed)
    if view is None:
        return
    for (_, mean, middle), texts in zip(view["rows"], zip(*changed, strict=True), strict=True):
        assert mean == pytest.approx(sum(texts) / len(texts))
        lower = sorted(texts)[(len(texts) - 1) // 2]
        assert abs(middle - lower) <= 0.04 * lower + 1.02
    data = json.loads(re.findall(r"json\">(.*?)</script>", view["plot"])[0])["data"]
    assert [sum(trace["y"]) for trace in data] == [len(changed)] * 2


def test_a_median_is_right_to_four_per_cent() -> None:
    """Of an odd number of lengths, over three decades."""
    lengths = [round(1.37**step) for step in range(10, 29)]
    found = median(Counter(length_bin(length) for length in lengths))
    assert found == pytest.approx(exact_median(lengths), rel=0.04)


def test_long_texts_are_cut_and_said_to_be() -> None:
    """A page holds no megabytes of one row."""
    assert cut("x" * CUT) == "x" * CUT
    assert cut("x" * (CUT + 1234)) == "x" * CUT + " … [1,234 more characters]"


@given(st.text())
def test_nothing_steers_the_text_around_it(text: str) -> None:
    """Printable characters, lines and joiners stay as they are, the rest is replaced one for one."""
    shown = visible_text(text)
    assert len(shown) == len(text) and visible_text(shown) == shown
    assert all(a == b or visible(a) == "\ufffd" for a, b in zip(text, shown, strict=True))
    assert visible_text("a\u200db\n\tc\u00a0d\u202e\x00\ud800") == "a\u200db\n\tc\u00a0d\ufffd\ufffd\ufffd"
