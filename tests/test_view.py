"""The viewer over real HTTP, on a run that the pipeline has made: tables, stories, and who may see them."""

from __future__ import annotations

import html
import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from cai.errors import StoreError
from cai.journal import Journal
from cai.journal_lines import look_up
from cai.rows import Drop, Judgment, Pair, Prompt, Reply, Revision
from cai.store import read_rows
from cai.view.guard import known_host
from cai.view.serve import listen
from cai.view.state import Settings
from tests.small_cli import run_cai
from tests.view_server import TOKEN, Viewer, edited_run, viewer

STAGES: dict[str, tuple[str, Any]] = {
    "prompts": ("prompts", Prompt),
    "replies": ("generate", Reply),
    "revisions": ("revise", Revision),
    "judgments": ("judge", Judgment),
    "pairs": ("pairs", Pair),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 prompts in three shards."""
    return edited_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def seen(run: Path) -> Iterator[Viewer]:
    """Its viewer."""
    with viewer(run) as opened:
        yield opened


def rows_of(run: Path, stage: str, row: Any, kind: str = "rows") -> list[Any]:
    return [one for path in sorted((run / stage).glob(f"{kind}-*.jsonl")) for one in read_rows(path, row)]


def ids(page: str) -> list[str]:
    """The ids of a table's rows, in order."""
    return [html.unescape(found) for found in re.findall(r'<a class="row" href="[^"]*">([^<]*)</a>', page)]


def following(page: str, rel: str) -> str | None:
    """Where the link to the next or previous page leads."""
    found = re.search(rf'<a rel="{rel}" href="([^"]*)"', page)
    return html.unescape(found[1]) if found else None


def all_ids(seen: Viewer, path: str) -> list[str]:
    """The ids of every page of a table, in order."""
    found, at = [], path
    while at:
        page = seen.page(at)
        found += ids(page)
        at = following(page, "next") or ""
    return found


@pytest.mark.parametrize("table", STAGES)
def test_a_table_has_every_row_once_in_order(seen: Viewer, run: Path, table: str) -> None:
    """Over all pages, and with the count that stands above."""
    stage, row = STAGES[table]
    expected = sorted(one.id for one in rows_of(run, stage, row))
    assert all_ids(seen, f"/table/{table}") == expected
    assert f"<strong>{len(expected):,}</strong> of {len(expected):,} {table}" in seen.page(f"/table/{table}")


def test_drops_and_verdicts_have_tables(seen: Viewer, run: Path) -> None:
    """Each drop of any stage with its reason, and each single verdict of a judgment."""
    drops = [
        one
        for stage in run.iterdir()
        if not stage.name.startswith((".", "previous"))
        for one in rows_of(run, stage.name, Drop, "drops")
    ]
    assert sorted(all_ids(seen, "/table/drops")) == sorted(one.id for one in drops)
    reason = drops[0].reason
    assert f"<strong>{sum(one.reason == reason for one in drops)}</strong>" in seen.page(
        "/table/drops", state=reason
    )
    verdicts = [(one.id, verdict) for one in rows_of(run, "judge", Judgment) for verdict in one.verdicts]
    assert sorted(all_ids(seen, "/table/verdicts")) == sorted(id_ for id_, _ in verdicts)
    under = [id_ for id_, verdict in verdicts if (verdict.principle, verdict.order) == ("kind", "ba")]
    assert sorted(all_ids(seen, "/table/verdicts?principle=kind&kind=ba")) == sorted(under)


def test_filters_take_exactly_what_they_say(seen: Viewer, run: Path) -> None:
    """By principle, state, confidence and text; several hold together, and the address carries them."""
    rows: list[Judgment] = rows_of(run, "judge", Judgment)
    sure = {one.id: max(one.p, 1 - one.p) for one in rows if one.p is not None}
    cases = {
        "state=labelled": [one.id for one in rows if one.state == "labelled"],
        "principle=brief": [one.id for one in rows if any(v.principle == "brief" for v in one.verdicts)],
        "low=0.8&high=0.95": [id_ for id_, value in sure.items() if 0.8 <= value <= 0.95],
        "kind=reply%2Frevision": [one.id for one in rows if one.b.kind == "revision"],
        "q=ABOUT+7+": [one.id for one in rows if "about 7 " in one.prompt.messages[-1].content.lower()],
        "state=labelled&q=about+7+": [
            one.id for one in rows if one.state == "labelled" and "about 7 " in one.prompt.messages[-1].content
        ],
        "tag=helpful&model=toy": [one.id for one in rows],
    }  # fmt: skip
    for query, expected in cases.items():
        assert all_ids(seen, f"/table/judgments?{query}") == sorted(expected), query
    assert len({len(found) for found in cases.values()}) > 3  # no filter that takes all, or nothing
    assert 'value="labelled" selected' in seen.page("/table/judgments?state=labelled")


def test_orders_are_kept_over_pages_and_back(seen: Viewer, run: Path) -> None:
    """By confidence; and going back gives the page before, in the same order."""
    rows = rows_of(run, "judge", Judgment)
    pages = [seen.page("/table/verdicts?sort=unsure")]
    while link := following(pages[-1], "next"):
        pages.append(seen.page(link))
    told = [float(value) for page in pages for value in re.findall(r'data-name="confidence">([\d.]+)<', page)]
    assert told == sorted(told) and len(told) == sum(len(one.verdicts) for one in rows)
    assert len(pages) > 3 and len(set(told)) > 1
    for before, after in pairwise(pages):
        assert ids(seen.page(following(after, "prev") or "")) == ids(before)
    assert following(pages[0], "prev") is None


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("/table/judgments?state=wrong", "no judgments have 'wrong'; there is"),
        ("/table/judgments?principle=absent", "no judgments have 'absent'"),
        ("/table/judgments?low=1.5", "low: '1.5' is no confidence; give a number from 0 to 1"),
        ("/table/judgments?low=nan", "'nan' is no confidence"),
        ("/table/judgments?low=0.9&high=0.6", "low 0.9 is above high 0.6"),
        ("/table/judgments?sort=best", "'best' is no order of judgments"),
        ("/table/prompts?sort=sure", "'sure' is no order of prompts"),
        ("/table/prompts?low=0.5", "prompts have no confidence"),
        ("/table/prompts?principle=kind", "principle: prompts have none"),
        ("/table/judgments?after=nowhere", "is no place in a table"),
        ("/table/judgments?after=99.0.0.judge", "not there any more"),
        ("/table/nothing", "there is no table 'nothing'"),
        ("/story?prompt=absent", "nothing about a prompt 'absent'"),
        ("/story", "which one?"),
        ("/compare?table=verdicts", "'verdicts' cannot be compared"),
        ("/compare?by=2", "give a number from 0 to 1"),
        ("/table/judgments?q=" + "x" * 2000, "longer than 1000 characters"),
    ],
)  # fmt: skip
def test_what_an_address_cannot_mean_is_one_line(seen: Viewer, address: str, told: str) -> None:
    """Named with its value and what would do; never a page that silently shows something else."""
    page = html.unescape(seen.page(address, 400))
    found = re.search(r'role="alert">([^\n]*)</p>', page)
    assert found is not None and told in found[1]


def test_a_story_tells_everything_of_a_prompt(seen: Viewer, run: Path) -> None:
    """Turns, replies, critiques, revisions, verdicts in both orders, label, pair, drop, and the calls behind them."""
    judgment = next(one for one in rows_of(run, "judge", Judgment) if one.state == "labelled")
    prompt = judgment.prompt
    page = html.unescape(seen.page("/story", prompt=prompt.id, row=judgment.id))
    assert all(turn.content in page for turn in prompt.messages)
    replies = [one for one in rows_of(run, "generate", Reply) if one.prompt.id == prompt.id]
    assert len(replies) == 2 and all(one.text in page and one.id in page for one in replies)
    revision = next(one for one in rows_of(run, "revise", Revision) if one.reply.prompt.id == prompt.id)
    assert all(done.principle in page and done.critique in page for done in revision.rounds)
    for verdict in judgment.verdicts:
        assert verdict.p is not None and f"{verdict.p:.3f}" in page
    assert f"P(a better) <strong>{judgment.p:.3f}</strong>" in page and "Preference pair" in page
    keys = [key for one in replies for key in one.calls] + [key for v in judgment.verdicts for key in v.calls]
    assert all(key[:8] in page for key in keys) and "not in the journal" not in page
    tokens = re.search(r"([\d,]+) calls, ([\d,]+) tokens in", page)
    assert tokens is not None and int(tokens[2]) > 0
    assert page.count('aria-current="true"') == 1


def test_a_dropped_row_says_why(seen: Viewer, run: Path) -> None:
    """On its own story, with the stage and the reason."""
    drop = rows_of(run, "pairs", Drop, "drops")[0]
    page = seen.page("/story", prompt=drop.id.split("/")[0])
    assert f"Dropped in pairs: {drop.reason.replace('_', ' ')}" in page


def test_calls_that_are_gone_are_told(run: Path, tmp_path: Path) -> None:
    """A run without its journals has stories all the same."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True, ignore=shutil.ignore_patterns("journal", ".view"))
    with viewer(copy) as opened:
        page = opened.page("/story", prompt="p1")
    assert "not in the journal (any more)" in page and "of the calls are not in the journals" in page


def test_a_look_up_reads_what_the_journal_holds(run: Path) -> None:
    """The same replies as its index finds, without those that are not there."""
    path = next((run / "journal" / "judge").glob("*.jsonl"))
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    with Journal(path, read_only=True) as journal:
        assert look_up(path, [*keys[:5], "0" * 32]) == {key: journal.get(key) for key in keys[:5]}


def test_nothing_is_seen_without_the_token(seen: Viewer) -> None:
    """Neither pages nor styles; a wrong token is none; the right one leaves the address at once."""
    base = str(seen.client.base_url)
    with httpx.Client(base_url=base) as stranger:
        for path in ("/", "/table/judgments", "/static/view.css", "/?token=wrong", "/absent"):
            answer = stranger.get(path)
            assert answer.status_code == 403 and "judgments" not in answer.text
        answer = stranger.get(f"/table/pairs?token={TOKEN}&q=a%20b")
        assert answer.status_code == 303 and answer.headers["location"] == "/table/pairs?q=a+b"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert stranger.get("/table/pairs").status_code == 200
    with closing(http.client.HTTPConnection("127.0.0.1", seen.view.settings.port)) as raw:
        raw.request("GET", f"//evil.example/?token={TOKEN}")
        assert raw.getresponse().headers["location"] == "/evil.example/"


def test_other_names_and_other_sites_are_refused(seen: Viewer) -> None:
    """A name that was rebound to this machine, and a form that another page of this machine posts."""
    port = seen.view.settings.port
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1:{port + 1}", "127.0.0.1", ""):
        assert seen.client.get("/", headers={"host": host}).status_code == 421
    for origin in (None, "null", "http://evil.example", f"http://127.0.0.1:{port + 1}"):
        headers = {"origin": origin} if origin else {}
        assert seen.client.post("/mark", data={"answer": "A"}, headers=headers).status_code == 403
    policy = seen.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_a_server_on_all_addresses_goes_by_any_of_them() -> None:
    """But by no name that somebody else has chosen."""
    settings = Settings(Path(), None, "t", "0.0.0.0", 80)
    assert known_host("192.168.1.7:80", settings) and known_host("192.168.1.7", settings)
    assert not known_host("evil.example:80", settings) and not known_host("192.168.1.7:81", settings)
    assert not known_host("192.168.1.7:80", settings._replace(host="127.0.0.1"))


def test_the_command_refuses_in_one_line(run: Path, tmp_path: Path) -> None:
    """A folder that is no run, another run that is none, a port that is taken, an address of elsewhere."""
    taken = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    for words, told in (
        ([tmp_path], "not a run (no config.json)"),
        ([run, "--against", tmp_path], "not a run (no config.json)"),
        ([run, "--port", str(port)], f"127.0.0.1:{port}: Address already in use; give --port 0"),
        ([run, "--host", "192.0.2.1"], "give --host an address of this machine"),
    ):
        done = run_cai("view", *words, "--no-browser")
        assert done.status == 2 and told in done.err and done.err.count("\n") == 1, done.err
    taken.close()
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(StoreError, match=r"config\.json: damaged"), viewer(tmp_path):
        pass
