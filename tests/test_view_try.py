"""Marks, audits, drafts and trials through a real viewer: what is posted, what is refused, what a trial shows."""

from __future__ import annotations

import asyncio
import html
import json
import queue
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cai.marks.mark import Mark, read_marks
from cai.marks.plan import read_audit
from cai.marks.sample import read_place
from tests.test_try import obliging
from tests.view_run import CONSTITUTION, fields_of, judged_run, judgment, judgments, viewer
from tests.wire import Answer, Json, Reply, Wire, asked_choices, wire_server

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x1b[31m"


@contextmanager
def wire(reply: Reply, **options: Any) -> Iterator[Wire]:
    """The loopback model server in a thread of its own."""
    found: queue.SimpleQueue[tuple[Wire, asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def serve() -> None:
        async with wire_server(reply, **options) as server:
            ended = asyncio.Event()
            found.put((server, asyncio.get_running_loop(), ended))
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    server, loop, ended = found.get(timeout=30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


def preferring(body: Json) -> Answer:
    """Finds every reply in breach, and the revision better, wherever it stands."""
    shown = body["messages"][-1]["content"]
    if not asked_choices(body):
        return obliging(body)
    first = shown.index("Mended by") < shown.index("Reply to")
    sure = {"A": 0.9, "B": 0.1} if first else {"A": 0.2, "B": 0.8}
    return Answer(max(sure, key=lambda name: sure[name]), sure)


def mark_form(client: httpx.Client, number: int) -> dict[str, str]:
    page = client.get("/story", params={"prompt": f"p{number}"}).text
    (form,) = fields_of(page, "/mark")
    return form


def test_a_mark_is_made_on_the_story_and_listed(tmp_path: Path) -> None:
    """Accept and flip are stored with author and time, shown on the row and in the list; the name is remembered."""
    run = judged_run(tmp_path, [judgment(0), judgment(1, 0.1)])
    with viewer(run) as client:
        form = mark_form(client, 1)
        assert form["stage"] == "judge" and form["row"] == "p1/r0~p1/r0/v"
        done = client.post("/mark", data={**form, "answer": "A", "author": "Ann Ä", "note": HOSTILE})
        assert done.status_code == 303 and done.headers["location"].startswith("/story?prompt=p1")
        (made,) = read_marks(run).rows
        assert (made.mark, made.gold, made.label, made.author, made.note) == (
            "flip",
            "A",
            "B",
            "Ann Ä",
            HOSTILE,
        )
        assert mark_form(client, 0)["author"] == "Ann Ä"
        for page in (client.get("/story", params={"prompt": "p1"}).text, client.get("/marks").text):
            assert "<script>alert" not in page and html.escape("<script>") in page and "\x1b" not in page
            assert "\u202e" not in page and "Ann Ä" in page
        client.post("/mark", data={**mark_form(client, 0), "answer": "A", "author": "Ann Ä"})
        one = client.get("/marks", params={"mark": "accept"}).text
        assert "p0/r0~p0/r0/v" in one and "p1/r0~p1/r0/v" not in one and "<strong>1</strong> of 2" in one
        assert "<strong>1</strong> of 2" in client.get("/marks", params={"q": "ALERT"}).text
        file = client.get("/marks.jsonl")
        assert file.headers["content-disposition"] == 'attachment; filename="marks.jsonl"'
        assert [row["gold"] for row in map(json.loads, file.text.splitlines())] == ["A", "A"]


WRONG: list[tuple[Json, str]] = [
    ({"answer": "C"}, "press one of the buttons"),
    ({"row": "../../etc/passwd"}, "not a judged row"),
    ({"stage": "../judge"}, "not a judged row"),
    ({"pair": "0" * 32}, "its texts have changed"),
    ({"author": " "}, "author: is missing or empty"),
    ({"author": "x" * 101}, "name has 101 characters"),
    ({"note": "x" * 5001}, "note has 5,001 characters"),
]


def test_a_wrong_mark_changes_nothing(tmp_path: Path) -> None:
    """One line says what is wrong, and the file is not even begun."""
    run = judged_run(tmp_path, [judgment(0)])
    with viewer(run) as client:
        form = {**mark_form(client, 0), "answer": "A"}
        for change, told in WRONG:
            done = client.post("/mark", data={**form, **change})
            assert done.status_code == 400 and told in html.unescape(done.text), change
    assert not (run / "marks.jsonl").exists()


def test_nothing_is_changed_without_token_origin_and_post(tmp_path: Path) -> None:
    """Every changing route refuses a stranger, another site's form, and GET."""
    run = judged_run(tmp_path, [judgment(0)])
    changing = ("/mark", "/audit", "/audit/mark", "/draft", "/try/stop")
    with viewer(run) as client:
        form = {**mark_form(client, 0), "answer": "A", "author": "ann"}
        for path in changing:
            assert client.post(path, data=form, headers={"Origin": "http://other.example"}).status_code == 403
            with httpx.Client(base_url=client.base_url, headers=client.headers) as stranger:
                assert stranger.post(path, data=form).status_code == 403
        assert client.get("/mark", params=form).status_code == 405
        assert client.get("/try/stop").status_code == 405
    assert not (run / "marks.jsonl").exists() and not (run / "drafts").exists()


def test_an_audit_from_plan_to_figure(tmp_path: Path) -> None:
    """The page names no label, kind or principle; what is picked is what was shown; the figure follows."""
    run = judged_run(tmp_path, judgments(40))
    with viewer(run) as client:
        assert "Plan an audit" in client.get("/audit").text
        wrong = client.post(
            "/audit", data={"margin": "nan", "expected": "0.5", "seed": "0", "of": "labelled"}
        )
        assert wrong.status_code == 400 and "not a number" in wrong.text
        plan = {"margin": "25", "expected": "0.5", "seed": "7", "of": "labelled"}
        assert client.post("/audit", data=plan).headers["location"] == "/audit"
        audit = read_audit(run)
        assert audit is not None and audit.plan.seed == 7
        for place in audit.sample:
            page = client.get("/audit/next").text
            main = page[page.index("<main") :]
            assert not re.search(r"\bkind\b|honest|revision|\blabelled\b|0\.9|P\(a", main)
            row = read_place(place)
            better = row.a.text if (row.p or 0) > 0.5 else row.b.text
            worse = row.b.text if better == row.a.text else row.a.text
            choice = "first" if main.index(f">{better}<") < main.index(f">{worse}<") else "second"
            (form,) = fields_of(page, "/audit/mark")
            assert form["row"] == place.id
            assert (
                client.post("/audit/mark", data={**form, "choice": choice, "author": "ann"}).status_code
                == 303
            )
        assert "All rows of the sample are marked" in client.get("/audit/next").text
        told = client.get("/audit").text
        again = client.get("/audit/next", params={"stage": "judge", "row": audit.sample[0].id}).text
        assert "Which reply is better" in again and audit.sample[0].id in again
        assert client.get("/audit/next", params={"stage": "judge", "row": "p999"}).status_code == 400
    marks: tuple[Mark, ...] = read_marks(run).rows
    assert all(one.mark == "accept" and one.blind for one in marks) and len(marks) == len(audit.sample)
    assert "100.0 %" in told and f'<strong id="marked">{len(marks)}</strong>' in told


def trial_page(client: httpx.Client) -> str:
    """The page of the trial once it has ended."""
    for _ in range(5000):  # of a tenth of a second
        page = client.get("/try").text
        if "Going on" not in page:
            return html.unescape(page)
        time.sleep(0.1)
    raise AssertionError("the trial does not end")


def test_a_principle_is_edited_and_tried_on_the_row(tmp_path: Path) -> None:
    """The draft is shown against the original, which stays; before and after stand beside each other, with calls."""
    with wire(preferring) as server:
        run = judged_run(tmp_path, [judgment(n) for n in range(4)], server.url)
        stages = {path: path.read_bytes() for path in run.glob("*/rows-*.jsonl")}
        with viewer(run) as client:
            story = client.get("/story", params={"prompt": "p2"}).text
            assert 'href="/draft?principle=kind&amp;prompt=p2"' in story
            page = client.get("/draft", params={"principle": "kind", "prompt": "p2"}).text
            words, entry = fields_of(page, "/draft")
            assert words["statement"] == "Be kind." and "id: kind" in entry["entry"]
            assert not list((run / "drafts").glob("*.yaml"))
            edited = {
                **words,
                "name": "milder",
                "statement": HOSTILE[:25],
                "critique": "Look for <b>harsh</b> words: all.",
            }
            done = client.post("/draft", data={**edited, "do": "try"})
            assert done.headers["location"] == "/try", done.text
            shown = trial_page(client)
            draft = client.get("/draft", params={"principle": "kind", "name": "milder", "prompt": "p2"}).text
            again = client.post("/draft", data={**edited, "do": "try"})
            assert again.status_code == 303
            second = trial_page(client)
            file = client.get("/draft/milder.yaml").text
    assert "Not so: Be kind." not in shown and "Not so: Look for unkind words." in shown
    assert "Not so: Look for <b>harsh</b> words: all." in shown
    assert re.search(r"P 0\.8[0-9]*", shown) and "before: the version of" in shown.lower()
    assert "<b>harsh" not in draft and "+    critique: &#34;Look for &lt;b&gt;harsh" in draft
    assert (tmp_path / "edited.yaml").read_text() == CONSTITUTION
    assert (
        file.startswith("# What a small assistant does.") and "# the first one" in file and "# always" in file
    )
    calls = re.findall(
        r"<tr><th scope=\"row\">in all</th><td class=\"n\">(\d+)</td><td class=\"n\">(\d+)</td>",
        shown + second,
    )
    assert int(calls[0][0]) == 8 and calls[1] == ("0", "8")
    asked = [body["messages"][-1]["content"] for body in server.requests]
    assert len(asked) == 8 and all("Tell me about 2." in text for text in asked)
    assert {path: path.read_bytes() for path in run.glob("*/rows-*.jsonl")} == stages


def test_a_wrong_edit_is_told_with_its_place_and_kept_in_the_form(tmp_path: Path) -> None:
    """One line, as lint tells it, on the page of the form; nothing is written, and nothing that was typed is lost."""
    run = judged_run(tmp_path, [judgment(0)])
    with viewer(run) as client:
        form = fields_of(client.get("/draft", params={"principle": "kind", "prompt": "p0"}).text, "/draft")
        empty = client.post("/draft", data={**form[0], "statement": " ", "judge": "</textarea><script>"})
        typed = client.post("/draft", data={**form[1], "entry": "id: kind\nstatment: Be mild."})
        names = [
            client.post("/draft", data={**form[0], "name": name}) for name in ("../edited", "a/../../x", "UP")
        ]
        unknown = client.get("/draft", params={"principle": "kin"})
        paths = [
            client.get(f"/draft/{name}.yaml").status_code for name in ("..%2fedited", "none", "%2e%2e/x")
        ]
    assert (
        empty.status_code == 400 and "kind.yaml:8:" in empty.text and "</textarea><script>" not in empty.text
    )
    assert typed.status_code == 400 and "did you mean 'statement'?" in html.unescape(typed.text)
    assert "statment: Be mild." in typed.text
    assert all(one.status_code == 400 and "draft " in one.text for one in names)
    assert unknown.status_code == 400 and "did you mean 'kind'" in html.unescape(unknown.text)
    assert all(status in (400, 404) for status in paths)
    assert not list((run / "drafts").glob("*")) and (tmp_path / "edited.yaml").read_text() == CONSTITUTION


@pytest.mark.slow
def test_a_model_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    """Nothing listens at the endpoint: the page says so, and the next trial can begin."""
    run = judged_run(tmp_path, [judgment(0)])
    with viewer(run) as client:
        form = fields_of(client.get("/draft", params={"principle": "kind", "prompt": "p0"}).text, "/draft")[0]
        for _ in range(2):
            assert (
                client.post("/draft", data={**form, "statement": "Be mild.", "do": "try"}).status_code == 303
            )
            page = trial_page(client)
            assert re.search(r'role="alert">[^\n]*127\.0\.0\.1:9[^\n]*</p>', page), page
            assert "Traceback" not in page


def test_one_trial_at_a_time_and_it_can_be_stopped(tmp_path: Path) -> None:
    """A second one is refused in one line; a stopped one is gone with its process, and a new one can begin."""
    with wire(obliging, delay_s=60) as server:
        run = judged_run(tmp_path, [judgment(0)], server.url)
        with viewer(run) as client:
            form = fields_of(
                client.get("/draft", params={"principle": "kind", "prompt": "p0"}).text, "/draft"
            )[0]
            edited = {**form, "statement": "Be mild.", "do": "try"}
            assert client.post("/draft", data=edited).status_code == 303
            refused = client.post("/draft", data=edited)
            assert refused.status_code == 400 and "a trial is going on" in refused.text
            while not server.calls:
                time.sleep(0.05)
            assert "Going on" in client.get("/try").text
            assert client.post("/try/stop").status_code == 303
            assert "Stopped after" in client.get("/try").text
            assert client.post("/draft", data=edited).status_code == 303
