"""The index of a run: every row at any depth, what is published later, what is damaged, and nothing kept in vain."""

from __future__ import annotations

import html
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.publish import publish_rows
from cai.rows import Drop, Message, Prompt, Reply
from cai.view.filters import FIELDS
from cai.view.index_rows import Table, prompt_of, table_of
from tests.view_run import judged_run, judgment, judgments
from tests.view_server import Viewer, viewer

DEEP = 1200
HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}\x1b[31m\u202e\x00\ud800'\" onload=x"


def reply(number: int, text: str) -> Reply:
    prompt = Prompt(
        id=f"p{number:05d}", messages=(Message(role="user", content="?"),), tags=("t",), source="s"
    )
    return Reply(
        id=f"{prompt.id}/r0", prompt=prompt, sample=0, text=text, finish_reason="stop", model="m", calls=()
    )


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A run of many replies of random lengths in three shards, with some judgments."""
    run = judged_run(tmp_path_factory.mktemp("deep"), judgments(30))
    rng = random.Random(0)
    rows = [reply(number, "x" * rng.randrange(9)) for number in range(DEEP)]
    rng.shuffle(rows)
    for shard in range(3):
        publish_rows(run, "generate", shard, "", rows[shard::3])
    with viewer(run) as opened:
        yield opened


@pytest.mark.parametrize("sort", ["id", "long", "short"])
def test_every_row_is_there_at_any_depth(deep: Viewer, sort: str) -> None:
    """Page after page to the end, then back from there: each row once, in one order, ties included."""
    link: str | None = f"/table/replies?sort={sort}"
    seen: list[tuple[str, int]] = []
    pages: list[str] = []
    while link:
        pages.append(deep.page(link))
        found = re.findall(
            r'class="row" href="[^"]*">([^<]*)</a>.*?data-name="length">(\d+)<', pages[-1], re.DOTALL
        )
        seen += [(id_, int(length)) for id_, length in found]
        link = leads(pages[-1], "next")
    keys = {"id": lambda one: one[0], "long": lambda one: (-one[1], one[0]), "short": lambda one: one[::-1]}
    assert seen == sorted(seen, key=keys[sort]) and len(set(seen)) == len(seen) == DEEP
    back, link = [pages[-1]], leads(pages[-1], "prev")
    while link:
        back.append(deep.page(link))
        link = leads(back[-1], "prev")
    rows = re.compile(r'class="row" href="[^"]*">([^<]*)<')
    assert [rows.findall(page) for page in back] == [rows.findall(page) for page in pages[::-1]]


def leads(page: str, rel: str) -> str | None:
    found = re.search(rf'<a rel="{rel}" href="([^"]*)"', page)
    return html.unescape(found[1]) if found else None


values = (
    st.text(max_size=20)
    | st.floats().map(str)
    | st.integers().map(str)
    | st.sampled_from(
        ["labelled", "kind", "judge", "id", "long", "0.5", "0.0.0.judge", "1.0.1.generate", "reply"]
    )
)
NAMES = ["tag", "principle", "state", "model", "kind", "source", "stage", "low", "high", "q", "sort", "after",
         "before", "table", "change", "by", "prompt", "row", "of"]  # fmt: skip


@given(
    st.sampled_from([*(f"/table/{table}" for table in FIELDS), "/compare", "/story"]),
    st.dictionaries(st.sampled_from(NAMES), values, max_size=4),
)
def test_no_address_breaks_a_page(deep: Viewer, path: str, query: dict[str, str]) -> None:
    """Whatever filters say, the answer is a page or one line that says what is wrong."""
    given_ = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
    answer = deep.client.get(path, params=given_)
    assert answer.status_code in (200, 400), answer.text
    assert answer.status_code == 200 or answer.text.count('role="alert"') == 1


@given(st.binary(max_size=40))
def test_no_bytes_in_an_address_break_a_page(deep: Viewer, data: bytes) -> None:
    """Percent-encoded, as anybody can send them, in the path and in the query."""
    written = "".join(f"%{byte:02x}" for byte in data)
    for address in (
        f"/table/judgments?q={written}&tag={written}",
        f"/table/{written}",
        f"/story?prompt={written}",
    ):
        assert deep.client.get(address).status_code in (200, 400, 404, 307)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """In ids, texts, tags and reasons, on every page: escaped, visible, and found by a search."""
    run = judged_run(tmp_path, [judgment(0, note=HOSTILE)])
    prompt = Prompt(
        id=f"../{HOSTILE}", messages=(Message(role="user", content=HOSTILE),), tags=(HOSTILE,), source=HOSTILE
    )
    row = Reply(
        id=f"{prompt.id}/r0",
        prompt=prompt,
        sample=0,
        text=HOSTILE,
        finish_reason="stop",
        model=HOSTILE,
        calls=(),
    )
    publish_rows(
        run, "prompts", 0, "", [prompt, Drop(id=HOSTILE, stage=HOSTILE, reason=HOSTILE, detail=HOSTILE)]
    )
    publish_rows(run, "generate", 0, "x", [row])
    with viewer(run) as opened:
        pages = [opened.page("/"), *(opened.page(f"/table/{table}") for table in FIELDS)]
        stories = [
            html.unescape(found) for found in re.findall(r'class="row" href="([^"]*)"', "".join(pages))
        ]
        pages += [opened.page(address) for address in stories]
        found = opened.page("/table/replies", q="ALERT(1)</SCRIPT>{{ 7")
        assert "<strong>1</strong> of 1 replies" in found
        assert len(set(stories)) >= 4
    for page in pages:
        assert "<script>alert" not in page and "49" not in re.sub(r"\d{4,}|0\.\d+", "", page)
        shown = re.sub(r'value="[^"]*"', "", page)  # what is sent back as it is
        assert not {"\x1b", "\u202e", "\x00"} & set(shown)
        assert not re.search(r"<[^>]*[\"'] onload=x", page)


@pytest.mark.slow
def test_a_run_that_goes_on_is_followed(tmp_path: Path) -> None:
    """A shard that is published while the viewer runs is in its tables soon, and one that is published again."""
    run = judged_run(tmp_path, [judgment(number) for number in range(4)])
    with viewer(run) as opened:
        assert "<strong>4</strong> of 4" in opened.page("/table/judgments")
        publish_rows(run, "judge", 1, "again", [judgment(number) for number in range(10, 17)])
        await_page(opened, "/table/judgments", "<strong>9</strong> of 9")
        assert "p16/r0~p16/r0/v" in opened.page("/table/judgments")
        files = sorted((run / ".view").glob("v*/judgments/*.parquet"))
        assert len(files) == 3  # the one that was replaced may still be read
    stamps = {path: path.stat().st_mtime_ns for path in files}
    with viewer(run) as opened:
        assert "<strong>9</strong> of 9" in opened.page("/table/judgments")
    kept = sorted((run / ".view").glob("v*/judgments/*.parquet"))
    assert len(kept) == 2 and all(stamps[path] == path.stat().st_mtime_ns for path in kept)


def await_page(opened: Viewer, path: str, text: str) -> None:
    """Wait until a page has a text."""
    until = time.monotonic() + 60
    while text not in opened.page(path):
        assert time.monotonic() < until, opened.page(path)
        time.sleep(0.05)


def test_a_damaged_file_is_named_on_every_page(tmp_path: Path) -> None:
    """And the rest of the run can be looked at."""
    run = judged_run(tmp_path, [judgment(number) for number in range(4)])
    path = run / "judge" / "rows-00001.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": 1}\n')
    with viewer(run) as opened:
        page = html.unescape(opened.page("/table/replies"))
    assert "rows-00001.jsonl:3: not a row of judgments" in page and "<strong>4</strong> of 4" in page


def test_a_run_that_cannot_be_written_has_an_index_elsewhere(tmp_path: Path) -> None:
    """Which is gone afterwards."""
    if os.geteuid() == 0:
        (blocked := judged_run(tmp_path, [judgment(0)])).joinpath(".view").write_text("a file in the way")
    else:
        (blocked := judged_run(tmp_path, [judgment(0)])).chmod(0o500)
    with viewer(blocked) as opened:
        assert "<strong>1</strong> of 1" in opened.page("/table/judgments")
        folder = opened.view.index.folder
        assert folder.is_dir() and blocked not in folder.parents
    assert not folder.exists()
    blocked.chmod(0o700)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ("p", "p"), ("p/r0", "p"), ("p/r12/v", "p"), ("p/r0~p/r0/v", "p"), ("a/b/r1~a/b/r2", "a/b"),
        ("p@2/r0~p@2/r1", "p@2"), ("p/rx", "p/rx"), ("p/r", "p/r"), ("/r0", "/r0"),
    ],
)  # fmt: skip
def test_an_id_leads_to_its_prompt(row: str, prompt: str) -> None:
    """Whatever the row is, and whatever slashes the prompt's own id has."""
    assert prompt_of(row) == prompt


@pytest.mark.parametrize(
    ("stage", "table"),
    [
        ("prompts", "prompts"), ("held-out", "prompts"), ("generate", "replies"), ("dpo-1-generate", "replies"),
        ("evaluate-dpo", "replies"), ("revise", "revisions"), ("judge", "judgments"), ("sft-judge", "judgments"),
        ("judge-toy", None), ("compare-dpo-vs-sft", "judgments"), ("pairs", "pairs"), ("dpo-1-replay", "pairs"),
        ("grade-base", None), ("qualify-tiny", None), ("demonstrations", "demonstrations"),
    ],
)  # fmt: skip
def test_a_stage_has_its_table(stage: str, table: Table | None) -> None:
    """Rows of one kind are in one table, whatever model made them."""
    assert table_of(stage) == table
