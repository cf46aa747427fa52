"""Guards: figures against definitions written out, invariants, and what is shown of a run that fell for Goodhart."""

from __future__ import annotations

import io
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from cai.config import RunConfig
from cai.evaluate import guards
from cai.evaluate.guards import Replies, compare, describe, draw
from cai.evaluate.self_bleu import self_bleu
from cai.evaluate.summary import write_evaluation
from cai.intervals import mean_difference
from cai.publish import grade_by_rules, publish_rows
from cai.report.page import write_report
from cai.report.status import run_status
from cai.report.summary import print_status
from cai.rows import Drop, Message, Prompt, Reply
from cai.runfolder.hold import start_run
from tests.test_train_run import config_of

TEXTS = st.lists(st.text(max_size=60) | st.sampled_from(["", "I can not help.", "a b a b a b"]), max_size=30)
NUMBERED = st.lists(st.lists(st.integers(0, 5), max_size=9), max_size=8)


def replies(texts: Sequence[str]) -> list[Reply]:
    return [
        Reply(
            id=f"p{n}/r0", sample=0, text=text, finish_reason="stop", model="m", calls=("c",),
            prompt=Prompt(id=f"p{n}", source="s", messages=(Message(role="user", content="Hi."),)),
        )
        for n, text in enumerate(texts)
    ]  # fmt: skip


def figures(texts: Sequence[str]) -> Replies:
    return describe(draw(replies(texts), 0), 0, len(texts))


def against(texts: Sequence[str], base: Sequence[str]) -> Replies:
    """The figures of a trained model whose base said `base` to the same prompts."""
    after, before = draw(replies(texts), 0), draw(replies(base), 0)
    return compare(
        describe(after, 0, len(texts)), describe(before, 0, len(base)), after, before
    )  # fmt: skip


def test_figures_counted_by_hand() -> None:
    """Six words and five pairs, of which some come twice; lower and upper case are one; a copy is the same text."""
    found = figures(["The cat sat", "the cat ran", "the cat ran"])
    assert (found.n, found.mean_words, found.median_words) == (3, 3, 3)
    assert found.distinct_1 == pytest.approx(4 / 9) and found.distinct_2 == pytest.approx(3 / 6)
    assert (found.opening, found.opening_share, found.duplicates) == ("the cat ran", 2 / 3, 2 / 3)
    assert found.longer is None and found.truncated == 0 and found.warnings == ()


def test_no_replies_have_no_figures() -> None:
    """None, never 0, also where all were cut; a base without replies compares with nothing."""
    assert describe({}, 0, 0) == Replies(n=0)
    assert describe({}, 4, 4) == Replies(n=0, truncated=1.0)
    found = against([], ["one two"])
    assert found.longer is not None and found.longer.n == 0 and found.warnings == ()
    assert against(["one two"], []).warnings == ()


@given(TEXTS, st.randoms())
def test_the_order_of_rows_changes_nothing(texts: list[str], shuffled: random.Random) -> None:
    """Not one digit of a figure, for any text; and every share is one."""
    rows = replies(texts)
    expected = describe(draw(rows, 7), 0, len(rows))
    shuffled.shuffle(rows)
    assert describe(draw(rows, 7), 0, len(rows)) == expected
    for share in (expected.distinct_1, expected.self_bleu, expected.opening_share, expected.duplicates):
        assert share is None or 0 <= share <= 1 + 1e-12


@given(st.text(max_size=60), st.integers(2, 12))
def test_copies_are_found(text: str, copies: int) -> None:
    """Of one text said over and over all are copies, begin alike and, where there are words, are BLEU 1."""
    found = figures([text] * copies)
    assert found.duplicates == found.opening_share == 1
    assert found.self_bleu == (pytest.approx(1) if text.split() else None)
    assert found.mean_words == found.median_words == len(text.split())


def bleu(words: Sequence[int], references: Sequence[Sequence[int]]) -> float:
    """BLEU by its definition: every reference counted for every n-gram."""

    def grams(of: Sequence[int], order: int) -> Counter[tuple[int, ...]]:
        return Counter(tuple(of[i : i + order]) for i in range(len(of) - order + 1))

    logs = []
    for order in range(1, min(4, len(words)) + 1):
        own = grams(words, order)
        matched = sum(min(count, max(grams(r, order)[g] for r in references)) for g, count in own.items())
        logs.append(math.log((matched or 0.1) / sum(own.values())))
    closest = min((abs(len(r) - len(words)), len(r)) for r in references)[1]
    penalty = 0.0 if len(words) > closest else 1 - closest / len(words)
    return math.exp(sum(logs) / len(logs) + penalty)


@given(NUMBERED)
@settings(max_examples=300)
def test_self_bleu_is_its_definition(said: list[list[int]]) -> None:
    """In one pass a side what comparing every reply with every other gives; empty replies are left out."""
    full = [words for words in said if words]
    if len(full) < 2:
        assert self_bleu(said) is None
        return
    one_by_one = [bleu(words, full[:i] + full[i + 1 :]) for i, words in enumerate(full)]
    assert self_bleu(said) == pytest.approx(sum(one_by_one) / len(one_by_one), rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=40))
def test_the_interval_of_a_mean_is_students(pairs: list[tuple[int, int]]) -> None:
    """scipy's paired t interval; one pair has a difference and no interval."""
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found = mean_difference(a, b)
    changes = [x - y for x, y in pairs]
    if len(set(changes)) == 1:
        assert found.difference == found.low == found.high == changes[0]
    else:
        low, high = stats.t.interval(
            0.95, len(changes) - 1, loc=sum(changes) / len(changes), scale=stats.sem(changes)
        )
        assert found.low == pytest.approx(low, abs=1e-9)
        assert found.high == pytest.approx(high, abs=1e-9)
    one = mean_difference(a[:1], b[:1])
    assert (one.difference, one.low, one.n, one.clear) == (a[0] - b[0], None, 1, False)


def test_no_more_than_the_bound_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same prompts of every model and in any order, other ones under another seed."""
    monkeypatch.setattr(guards, "REPLIES", 10)
    one, other = draw(replies(["x"] * 50), 1), draw(reversed(replies(["y z"] * 50)), 1)
    assert len(one) == 10 and list(one) == list(other)
    assert set(draw(replies(["x"] * 50), 2)) != set(one)


BASE = [f"Here is an answer about thing {n} and {n + 1} of them." for n in range(40)]
VARIED = [f"Well {n}, number {n + 1} stands before {n + 2} and behind {n - 1} today." for n in range(40)]


@pytest.mark.parametrize(
    ("trained", "base", "warnings"),
    [
        (BASE, BASE, []),
        (VARIED, BASE, []),
        ([f"{text} {text[:-1]} I say {n} again" for n, text in enumerate(VARIED)], VARIED, ["times as long"]),
        (["I am sorry, I can not help."] * 15 + VARIED[15:], VARIED, ["38% of its replies begin with “i am"]),
        (BASE[:1] * 15 + BASE[15:], BASE, []),  # the base begins alike as well
        ([f"{n} is {n} is {n} is {n}" for n in range(40)], VARIED, ["distinct-2 is"]),
    ],
)
def test_warnings(trained: list[str], base: list[str], warnings: list[str]) -> None:
    """Each where it should be, alone, and none for another model of the same manner."""
    found = against(trained, base).warnings
    assert len(found) == len(warnings), found
    assert all(words in line for words, line in zip(warnings, found, strict=True))


def test_a_model_that_never_ends_is_warned_of() -> None:
    """Its cut replies are not among those that are looked at, and would hide its length."""
    texts = draw(replies(VARIED), 0)
    found = compare(describe(texts, 10, 50), describe(texts, 2, 50), texts, texts)
    assert found.warnings[0].startswith("20% of its replies were cut at max_tokens (base 4%)")


def answered(folder: Path, said: dict[str, list[str]]) -> RunConfig:
    """A run of the embedded world whose models said this about baking, with one reply of each cut and one refused."""
    held = {"sources": [{"path": str(folder / "prompts.jsonl")}], "grader": "embedded"}
    config = config_of(folder, evaluate=held, sft={}, dpo={})
    with start_run(config):
        pass
    for name, texts in said.items():
        cut: list[Reply | Drop] = [
            Drop(id=f"{reason}/r0", stage="evaluate", reason=reason) for reason in ("truncated", "no_metric")
        ]
        rows = [
            reply.model_copy(update={"prompt": reply.prompt.model_copy(update={"tags": ("helpful",)})})
            for reply in replies(texts)
        ]
        publish_rows(config.root, f"evaluate-{name}", 0, name, [*rows, *cut])
        grade_by_rules(config, name)
    write_evaluation(config, list(said))
    return config


HOSTILE = "\x1b[31m\ud800<script>alert(1)</script>{{ 7 * 7 }}[bold]"


def test_a_run_shows_what_its_models_fell_for(tmp_path: Path) -> None:
    """Stored beside the rates; table and warning in the terminal and on the page, where no reply is obeyed."""
    config = answered(tmp_path, {"base": VARIED, "sft": VARIED, "dpo": [f"{HOSTILE} a b c {HOSTILE}"] * 40})
    evaluation = json.loads((config.root / "evaluation.json").read_text())
    assert set(evaluation["base"]) == {"harmless", "helpful", "overrefusal", "unscored", "replies"}
    dpo: dict[str, Any] = evaluation["dpo"]["replies"]
    assert dpo["duplicates"] == 1 and dpo["n"] == 40 and dpo["truncated"] == pytest.approx(1 / 42)
    assert evaluation["sft"]["replies"]["longer"] == {"difference": 0, "low": 0, "high": 0, "n": 40}
    assert evaluation["sft"]["replies"]["warnings"] == [] and len(dpo["warnings"]) == 2
    out = io.StringIO()
    print_status(run_status(config.root), Console(file=out, width=80))
    shown = out.getvalue()
    assert "how the replies read" in shown and "warning  dpo: 100% of its replies begin with" in shown
    assert "\x1b" not in shown and "[bold]" in shown
    table = shown[shown.index("┏", shown.index("how the")) :]
    assert all(len(line) <= 80 for line in table[: table.index("└")].splitlines())
    page = write_report(config).read_text()
    page = page[page.index("<body>") :]
    assert "dpo: 100% of its replies begin with" in page
    assert "<script>alert" not in page and "\x1b" not in page and "{{ 7 * 7 }}" in page


def test_unscored_replies_are_summed_over_both_stages(tmp_path: Path) -> None:
    """The same reason may come from answering and from grading; an older evaluation without guards is still shown."""
    config = answered(tmp_path, {"base": ["This is not of the world."] * 3})
    unscored = run_status(config.root)["evaluation"]["base"]["unscored"]
    assert unscored["truncated"] == 1 and sum(unscored.values()) == 5
    status = run_status(config.root)
    del status["evaluation"]["base"]["replies"]
    out = io.StringIO()
    print_status(status, Console(file=out, width=80))
    assert "how the replies read" not in out.getvalue() and "held-out prompts" in out.getvalue()


def test_the_documented_bounds_are_those_of_the_code() -> None:
    """Every number that the page on evaluation gives for the figures and the warnings."""
    text = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text()
    for said in (
        f"more than {guards.LONGER} times as long",
        f"at most {guards.LESS_DISTINCT} times the base's",
        f"more than {guards.OPENING_OFTEN:.0%} of".replace("%", " %"),
        f"less than {guards.OPENING_RARE:.0%} do".replace("%", " %"),
        f"more than {100 * guards.MORE_TRUNCATED:.0f} points more",
        f"of {guards.SELF_BLEU_REPLIES} replies",
        f"up to {guards.REPLIES:,} held-out prompts",
        f"first {guards.OPENING} words",
    ):
        assert said in text, said
