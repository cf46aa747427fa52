"""Marks and audits: kept whatever happens to the file, a fair sample, an honest interval, a file that judges take."""

from __future__ import annotations

import json
import math
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import ConfigError
from cai.judges.labelled import read_pairs
from cai.marks.bounds import bounds, sample_size
from cai.marks.figures import AuditFigures, audit_figures, margin_of, next_place
from cai.marks.mark import (
    MARKS,
    MOST_NOTE,
    Answer,
    Mark,
    add_mark,
    leaning,
    make_mark,
    read_marks,
)
from cai.marks.plan import Audit, answer_of, make_plan, read_audit, swapped
from cai.marks.sample import Of, draw_rows, read_place, scan
from cai.rows import LabelledPair, Recorded
from cai.shard import shard_paths
from cai.store import read_rows, write_rows
from tests.small_cli import run_cai
from tests.view_run import judged_run, judgment, judgments, publish_judged

ANSWERS: tuple[Answer, ...] = get_args(Answer)
answers = st.sampled_from(ANSWERS)
texts = st.text(max_size=30) | st.text(
    st.characters(codec=None, categories=("Cs", "Cc", "Cf", "L")), max_size=9
)


def mark(number: int = 0, answer: Answer = "A", author: str = "ann", **more: Any) -> Mark:
    return make_mark("judge", judgment(number), answer, author=author, **more)


def blind(run: Path, count: int, answer: str = "right", author: str = "ann") -> None:
    """Mark the next rows of the audit, as the judge says or the other way round."""
    for _ in range(count):
        audit = read_audit(run)
        assert audit is not None
        place, _ = next_place(audit, read_marks(run).rows, author)
        assert place is not None
        row = read_place(place)
        side = leaning(row)
        said: Any = {"right": side, "wrong": "B" if side == "A" else "A"}.get(answer, answer)
        add_mark(run, make_mark(place.stage, row, said, author=author, blind=True))


def planned(run: Path, margin: float = 0.2, of: Of = "labelled", seed: int = 0) -> Audit:
    make_plan(run, of=of, margin=margin, expected=0.5, seed=seed, author="ann")
    audit = read_audit(run)
    assert audit is not None
    return audit


def figures(run: Path, author: str | None = None) -> AuditFigures:
    audit = read_audit(run)
    assert audit is not None
    return audit_figures(audit, read_marks(run).rows, author)


@given(st.lists(st.tuples(st.integers(0, 3), answers, st.sampled_from(["ann", "bob"]), texts), max_size=12))
def test_the_last_mark_of_an_author_on_a_row_counts(made: list[tuple[int, Answer, str, str]]) -> None:
    """Whatever notes hold, they read back as they were, and each row and author has the mark made last."""
    with tempfile.TemporaryDirectory() as name:
        run, last = Path(name), {}
        for number, answer, author, note in made:
            one = mark(number, answer, author, note=note)
            add_mark(run, one)
            last[number, author] = one
        found = read_marks(run)
    assert found.damaged == 0
    assert {(int(one.row[1]), one.author): one for one in found.rows} == last
    assert len(found.rows) == len(last)


@given(st.lists(answers, min_size=1, max_size=5), st.data())
def test_a_torn_line_costs_itself_alone(made: list[Answer], data: st.DataObject) -> None:
    """A file that a crash cut anywhere still takes marks, and gives back every whole line."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        for number, answer in enumerate(made):
            add_mark(run, mark(number, answer))
        whole = (run / MARKS).read_bytes()
        kept = whole[: data.draw(st.integers(0, len(whole)), label="cut")]
        (run / MARKS).write_bytes(kept)
        before = read_marks(run)
        add_mark(run, mark(9, "tie"))
        after = read_marks(run)
    complete = [line for line in kept.split(b"\n") if line and line + b"\n" in whole]
    assert [one.row for one in after.rows[:-1]] == [json.loads(line)["row"] for line in complete]
    assert after.rows[-1].gold == "tie" and len(before.rows) == len(complete)
    assert (
        before.damaged
        == after.damaged
        == (not kept.endswith(b"\n") and kept.split(b"\n")[-1] not in complete and bool(kept))
    )


def _write(run: str, author: str, count: int) -> None:
    for number in range(count):
        add_mark(Path(run), mark(number, "A", author, note="x" * 2000))


def test_viewers_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four processes append at the same time: every mark of each is there, whole."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(tmp_path), f"author {n}", 40)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = read_marks(tmp_path)
    assert found.damaged == 0
    assert {(one.author, one.row) for one in found.rows} == {
        (f"author {n}", judgment(number).id) for n in range(4) for number in range(40)
    }


@pytest.mark.parametrize(
    ("p", "answer", "verb", "gold"),
    [
        (0.9, "A", "accept", "A"), (0.9, "B", "flip", "B"), (0.9, "tie", "reject", "tie"),
        (0.9, "unusable", "reject", None), (0.2, "B", "accept", "B"), (0.5, "tie", "accept", "tie"),
        (0.5, "A", "flip", "A"), (None, "B", "flip", "B"),
    ],
)  # fmt: skip
def test_what_an_answer_means(p: float | None, answer: Answer, verb: str, gold: str | None) -> None:
    """Accept: the judge is right; flip: the other reply; reject: unusable, or a tie where that is said."""
    made = make_mark("judge", judgment(0, p), answer, author=" ann ")
    assert (made.mark, made.gold, made.author) == (verb, gold, "ann")


def test_a_name_and_a_note_have_bounds() -> None:
    """An empty name and an endless note are refused with the number of characters."""
    bad: Any
    for bad, message in (
        ({"author": " "}, "name has 0"),
        ({"note": "x" * (MOST_NOTE + 1)}, "note has 5,001"),
    ):
        with pytest.raises(ConfigError, match=message):
            mark(**bad)


@pytest.mark.parametrize(("size", "n"), [(30, 10), (60, 25), (120, 40), (31, 31)])
def test_the_interval_covers_the_truth(size: int, n: int) -> None:
    """For every possible share of right rows, at least 95 % of all samples have it within their bounds."""

    def likely(right: int, truth: int) -> float:
        ways = math.comb(truth, right) * math.comb(size - truth, n - right)
        return ways / math.comb(size, n)

    found = [bounds(right, n, size) for right in range(n + 1)]
    for truth in range(size + 1):
        within = [
            x
            for x, one in enumerate(found)
            if one.low <= truth / size + 1e-12 and truth / size <= one.high + 1e-12
        ]
        assert sum(likely(x, truth) for x in within) >= 0.95 - 1e-9
    whole = bounds(7, n, n) if n == size else bounds(7, 7, 7)
    assert whole.low == whole.rate == whole.high


def test_without_end_the_interval_is_that_of_clopper_and_pearson() -> None:
    """As its tables have it; and a run of a million rows is as good as endless."""
    published = {(0, 5): (0, 0.5218), (45, 50): (0.7819, 0.9667), (50, 50): (0.9289, 1)}
    for (right, n), expected in published.items():
        assert bounds(right, n)[1:] == pytest.approx(expected, abs=0.0001)
        assert bounds(right, n, 10**6)[1:] == pytest.approx(expected, abs=0.002)


@settings(max_examples=30)
@given(st.integers(1, 3000), st.sampled_from([0.02, 0.05, 0.1, 0.3]), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_planned_size_keeps_the_margin(size: int, margin: float, expected: float) -> None:
    """At the expected share the interval is as narrow as planned; one row fewer would not do, or none is left."""
    n = sample_size(margin, size, expected)
    assert 1 <= n <= size
    assert bounds(round(expected * n), n, size).margin <= margin
    if n > 1:
        assert bounds(round(expected * (n - 1)), n - 1, size).margin > margin


def test_a_plan_at_one_half_holds_for_any_accuracy() -> None:
    """No number of right rows makes the interval wider than planned, but for what rounding does to a fraction of it."""
    n = sample_size(0.05, 2000)
    assert max(bounds(right, n, 2000).margin for right in range(0, n + 1, 9)) <= 0.0505


def test_a_sample_is_stable_and_fair(tmp_path: Path) -> None:
    """The draw knows seed and id alone: rows that come later move none, and each row comes first as often."""
    rows = judgments(60)
    run = judged_run(tmp_path, rows)
    eligible = {row.id for row in rows if row.state == "labelled"}
    first = draw_rows(run, of="labelled", seed=3, n=1000)
    assert {place.id for place in first.places} == eligible and first.labelled == len(eligible)
    assert first.scored == sum(row.p is not None for row in rows)
    assert draw_rows(run, of="labelled", seed=3, n=7).places == first.places[:7]
    for place in first.places[:5]:
        assert read_place(place).id == place.id
    publish_judged(run, 1, [*rows[1::2], *(judgment(n) for n in range(100, 130))])
    later = [place.id for place in draw_rows(run, of="labelled", seed=3, n=1000).places]
    assert [name for name in later if name in eligible] == [place.id for place in first.places]
    drawn = [draw_rows(run, of="scored", seed=seed, n=10).places for seed in range(120)]
    counts = [
        sum(place.id == row.id for places in drawn for place in places) for row in rows if row.p is not None
    ]
    expected = 1200 / draw_rows(run, of="scored", seed=0, n=1).scored
    assert max(counts) < 3 * expected and min(counts) > expected / 4
    orders = sum(swapped(5, place.key) for place in first.places)
    assert 0.25 < orders / len(first.places) < 0.75


def test_rows_of_any_text_are_found_in_their_files(tmp_path: Path) -> None:
    """Texts that look like the end of a row, lone surrogates and odd ids change nothing about what is read."""
    odd = [
        judgment(n, 0.9, note=note)
        for n, note in enumerate(['"p":0.1,"p_raw":0.1,"state":"tie"}', "\ud800", "\x00\u2028"])
    ]
    odd.append(odd[0].model_copy(update={"id": 'q"\\\n~x'}))
    write_rows(shard_paths(tmp_path, "judge", 0).rows, odd)
    write_rows(shard_paths(tmp_path, "judge-toy", 0).rows, odd)  # one judge of a jury: not counted twice
    found = list(scan(tmp_path))
    assert [(place.id, place.p, place.state) for place in found] == [(row.id, 0.9, "labelled") for row in odd]
    assert [read_place(place) for place in found] == odd


def test_figures_are_of_the_rows_up_to_the_first_gap(tmp_path: Path) -> None:
    """Half a sample is a fair one: n marked, the interval for so many; a later mark waits for those before it."""
    run = judged_run(tmp_path, judgments(80))
    audit = planned(run, margin=0.2)
    assert figures(run).labels.rate is None and margin_of(figures(run).labels) is None
    blind(run, 6)
    blind(run, 1, "wrong")
    blind(run, 1, "tie")
    blind(run, 1, "unusable")
    found = figures(run)
    assert (found.marked, found.unusable, found.labels.n, found.labels.right, found.labels.ties) == (
        9,
        1,
        8,
        6,
        1,
    )
    low, high = bounds(6, 8, audit.drawn.labelled)[1:]
    assert (found.labels.low, found.labels.high) == (low, high) and not found.reached
    place = audit.sample[12]
    add_mark(run, make_mark(place.stage, read_place(place), "A", author="ann", blind=True))
    assert (figures(run).marked, figures(run).ahead) == (9, 1)
    blind(run, 3)
    assert (figures(run).marked, figures(run).ahead) == (13, 0)
    before = figures(run)
    seen = audit.sample[13]  # marked with the label in sight: not a mark of the audit
    add_mark(run, make_mark(seen.stage, read_place(seen), "A", author="ann"))
    assert figures(run) == before


def test_a_finished_audit_keeps_its_margin_and_a_whole_one_is_exact(tmp_path: Path) -> None:
    """All planned rows marked: at most the planned margin; all rows of the run: no doubt left."""
    run = judged_run(tmp_path, judgments(80))
    size = planned(run, margin=0.15).plan.size
    blind(run, size // 2, "wrong")
    blind(run, size - size // 2)
    found = figures(run)
    assert found.reached and (margin_of(found.labels) or 1) <= 0.15
    assert [one.principle for one in found.principles] == ["honest", "kind"]
    whole = planned(run, margin=0.0001)
    assert whole.plan.size == whole.size
    blind(run, whole.size - size)
    assert figures(run).labels.low == figures(run).labels.high == figures(run).labels.rate


def test_authors_who_disagree_are_counted_apart(tmp_path: Path) -> None:
    """Each goes through the same rows in the same order; a row they disagree on has no gold."""
    run = judged_run(tmp_path, judgments(80))
    planned(run)
    blind(run, 5)
    blind(run, 4, author="bob")
    blind(run, 1, "wrong", author="bob")
    found = figures(run)
    assert (found.marked, found.disputed, found.labels.n, found.authors) == (5, 1, 4, ("ann", "bob"))
    assert (figures(run, "bob").labels.right, figures(run, "bob").labels.n) == (4, 5)


def test_a_mark_on_other_texts_counts_no_more(tmp_path: Path) -> None:
    """A run that gives a row other texts leaves its mark stale, and the audit asks for the row again."""
    rows = [judgment(n) for n in range(30)]
    run = judged_run(tmp_path, rows)
    audit = planned(run)
    blind(run, 3)
    number = int(audit.sample[1].id.split("/")[0][1:])
    changed = rows[number].model_copy(
        update={"b": rows[number].b.model_copy(update={"text": "Quite another."})}
    )
    rows[number] = changed
    publish_judged(run, number % 2, rows[number % 2 :: 2])
    found, again = figures(run), read_audit(run)
    assert again is not None and (found.marked, found.ahead, found.stale) == (1, 1, 1)
    assert next_place(again, read_marks(run).rows, "ann")[0] == again.sample[1]


def test_opinions_below_the_threshold_are_told_apart(tmp_path: Path) -> None:
    """An audit of all scored rows says how often labels are right, and opinions: a tie is no wrong opinion."""
    rows = [judgment(n, 0.9 if n % 2 else 0.6) for n in range(40)]
    run = judged_run(tmp_path, rows)
    audit = planned(run, of="scored")
    blind(run, 10)
    blind(run, 2, "tie")
    found = figures(run)
    labelled = sum(place.state == "labelled" for place in audit.sample[:12])
    assert found.opinions is not None and (found.opinions.n, found.opinions.right, found.opinions.ties) == (
        10,
        10,
        2,
    )
    assert found.labels.n == labelled and (found.labels.of, found.opinions.of) == (20, 40)


@given(st.integers(), st.text(), st.sampled_from(["first", "second"]))
def test_what_is_picked_is_what_was_shown(seed: int, name: str, choice: str) -> None:
    """The first reply shown is a, unless the row is shown with b first."""
    key = ("judge", name)
    shown = ("B", "A") if swapped(seed, key) else ("A", "B")
    assert answer_of(choice, seed, key) == shown[choice == "second"]
    assert answer_of("third", seed, key) is None


@pytest.mark.slow
def test_the_commands_say_it_and_calibration_takes_it(tmp_path: Path) -> None:
    """Plan, figures, list and export by `cai marks`; `cai judge replay` gives the very figures, and a calibration."""
    run = judged_run(tmp_path, [judgment(n, 0.9 if n % 3 else 0.15) for n in range(60)])
    made = run_cai("marks", "plan", run, "--margin", "5", "--json").json
    assert (made["rows"], made["size"]) == (60, sample_size(0.05, 60))
    none = run_cai("marks", "export", run, "--out", tmp_path / "none.jsonl")
    assert none.status == 2 and "no row that it has is marked" in none.err
    blind(run, 30)
    blind(run, 10, "wrong")
    blind(run, 2, "unusable")
    told = run_cai("marks", "accuracy", run, "--json").json
    assert (told["labels"]["right"], told["labels"]["n"], told["marked"]) == (30, 40, 42)
    assert "42 of" in run_cai("marks", "accuracy", run).out
    assert len(run_cai("marks", "list", run, "--json").json["marks"]) == 42
    stranger = run_cai("marks", "list", run, "--author", "bob")
    assert stranger.status == 2 and "marks are by ann" in stranger.err
    file = tmp_path / "marks.jsonl"
    assert run_cai("marks", "export", run, "--out", file, "--json").json["gold"] == 40
    kept = {row.id: row for row in read_rows(file, Recorded)}
    one = kept[next(iter(kept))]
    assert one.tags == ("one",) and one.principle is None
    assert one.p_a_ab == one.p_a_ba == pytest.approx(0.9 if int(one.id.split("/")[0][1:]) % 3 else 0.15)
    asked = [pair for _, pair in read_pairs(file, LabelledPair)]  # what qualify and calibrate read
    assert [pair.id for pair in asked] == list(kept)
    shown = run_cai(
        "judge", "replay", file, "--calibrate", "temperature", "--out", tmp_path / "c.json", "--json"
    )
    assert shown.status == 0, shown.err
    assert (shown.json["scored"], shown.json["accuracy"]) == (40, 0.75)
    assert shown.json["unscored_reasons"] == {"no_gold": 2} and (tmp_path / "c.json").is_file()


def test_an_export_of_a_jury_names_whose_verdicts(tmp_path: Path) -> None:
    """Without --judge there are pairs alone; with it, that judge's verdicts; another name is a mistake."""
    run = judged_run(tmp_path, judgments(9), models=("toy", "other"), judge={"jury": ["toy", "other"]})
    add_mark(run, mark(0))
    pairs = run_cai("marks", "export", run, "--out", tmp_path / "pairs.jsonl", "--json").json
    assert pairs["judge"] is None and "p_a_ab" not in (tmp_path / "pairs.jsonl").read_text()
    one = run_cai("marks", "export", run, "--out", tmp_path / "one.jsonl", "--judge", "toy", "--json").json
    assert one["judge"] and len(list(read_rows(tmp_path / "one.jsonl", Recorded))) == 1
    wrong = run_cai("marks", "export", run, "--out", tmp_path / "x.jsonl", "--judge", "tox")
    assert wrong.status == 2 and "it has toy, other" in wrong.err
