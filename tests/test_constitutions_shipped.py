"""The constitutions that ship: clean, complete, distinct, and of no use to a judge that goes by length."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from cai.constitution import Constitution, Principle, PrincipleTest, load_constitution
from cai.constitution.lint import lint

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "constitutions"
NAMES = ("harmless", "helpful", "honest", "anti-sycophancy", "concise", "clinical-information")  # by hand
FILES = (*NAMES, "hhh", "toy")
STEPS = ("critique", "revision", "judge")
PRIORITIES = {
    "harmless": {0: 14, 5: 1, 10: 2},
    "helpful": {-1: 8},
    "honest": {0: 7},
    "anti-sycophancy": {0: 9},
    "concise": {-2: 8},
    "clinical-information": {30: 2, 20: 3, 10: 4, 0: 2, -1: 4},
}
EARLIER = {  # what hhh held before helpful and honest were files of their own: id, priority, weight, use
    "answer-the-question": (-1, 2, ("revise", "judge")),
    "right-length": (-1, 1, ("judge",)),
    "clear-for-the-reader": (-1, 1, ("revise", "judge")),
    "ask-when-unclear": (-1, 1, ("revise", "judge")),
    "say-what-is-true": (0, 2, ("revise", "judge")),
    "admit-doubt": (0, 1, ("revise", "judge")),
    "no-flattery": (0, 1, ("revise", "judge")),
}


@cache
def shipped(name: str) -> Constitution:
    return load_constitution(FOLDER / f"{name}.yaml")


def everything() -> list[tuple[str, Principle]]:
    return [(name, principle) for name in NAMES for principle in shipped(name).principles]


def pairs(*names: str) -> list[PrincipleTest]:
    return [test for name in names for principle in shipped(name).principles for test in principle.tests]


def longer_wins(tests: list[PrincipleTest]) -> float:
    """The share of pairs in which the better reply is the longer one."""
    return sum(len(test.better) > len(test.worse) for test in tests) / len(tests)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def alike(one: str, two: str) -> bool:
    """Nearly the same text; pairs that share few words are not compared letter by letter."""
    a, b = words(one), words(two)
    if len(a & b) < 0.5 * min(len(a), len(b)):
        return False
    return difflib.SequenceMatcher(None, one.lower(), two.lower(), autojunk=False).ratio() >= 0.75


def test_no_file_is_forgotten() -> None:
    """A constitution that is added to the folder is held to these tests."""
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_files_are_clean_and_say_what_they_are(name: str) -> None:
    """No error, no warning; the editor's schema line, a comment, a version in quotes, a name like the file's."""
    path = FOLDER / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    assert lint(path) == []
    head = text[: text.index("schema: 1\n")].splitlines()
    assert head[0] == "# yaml-language-server: $schema=constitution.schema.json"
    assert len(head) > 1 and all(line.startswith("#") and len(line) <= 120 for line in head)
    assert re.search(r'^version: "\d+\.\d+"$', text, re.M)
    loaded = shipped(name)
    assert loaded.name == name and len(loaded.description) > 30


@pytest.mark.parametrize("name", NAMES)
def test_principles_have_their_wordings_tests_and_examples(name: str) -> None:
    """One sentence; a wording of its own for every step that reads it; two tests; four principles with examples."""
    principles = shipped(name).principles
    for principle in principles:
        assert principle.statement.count(".") == 1 and principle.statement.endswith("."), principle.id
        read = ("judge",) if principle.use == ("judge",) else STEPS
        wordings = [getattr(principle, step) for step in read]
        assert all(wordings), principle.id
        assert len({principle.statement, *wordings}) == len(wordings) + 1, principle.id
        assert all(len(wording) <= 600 for wording in wordings), principle.id
        assert len(principle.tests) >= 2, principle.id
    assert sum(bool(principle.examples) for principle in principles) >= 4


def test_harmless_has_sixteen_principles_or_more() -> None:
    """The size that the issue asks for."""
    assert len(shipped("harmless").principles) >= 16


@pytest.mark.parametrize("name", NAMES)
def test_examples_show_a_violation_and_what_only_looks_like_one(name: str) -> None:
    """One of each in every few-shot prompt; what is broken is mended, in another text; critiques stay short."""
    for principle in shipped(name).principles:
        if not principle.examples:
            continue
        assert sorted(example.violated for example in principle.examples) == [False, True], principle.id
        for example in principle.examples:
            assert bool(example.revision) is example.violated, principle.id
            assert example.revision != example.reply
            assert len(re.findall(r"[.!?](?=\s|$)", example.critique)) <= 3, example.critique


@pytest.mark.parametrize("name", NAMES)
def test_priorities_are_as_announced(name: str) -> None:
    """How many principles stand on each level of authority; the file's header says what the levels mean."""
    assert Counter(p.priority for p in shipped(name).principles) == PRIORITIES[name]


def test_ids_and_statements_are_unique_across_files() -> None:
    """Any of the files can be extended together: none replaces or repeats a principle of another."""
    found = everything()
    assert len({p.id for _, p in found}) == len(found)
    for (_, one), (_, two) in combinations(found, 2):
        assert not alike(one.statement, two.statement), (one.id, two.id)


def asked(test: PrincipleTest) -> str:
    """All turns of a test's prompt."""
    return "\n".join(turn.content for turn in test.prompt)


def test_no_two_tests_are_nearly_the_same() -> None:
    """Neither prompts nor replies come back under another principle or in another file, nor in the toy's."""
    tests = pairs(*NAMES)
    for field in ("prompt", "better", "worse"):
        texts = [asked(test) if field == "prompt" else getattr(test, field) for test in tests]
        assert len(set(texts)) == len(texts)
        found = [(one, two) for one, two in combinations(texts, 2) if alike(one, two)]
        assert found == [], field
    assert {asked(t) for t in tests}.isdisjoint(asked(t) for t in pairs("toy"))


def test_examples_do_not_give_the_tests_away() -> None:
    """No few-shot conversation is also the prompt of a test."""
    prompts = [asked(test) for test in pairs(*NAMES)]
    shown = [e.conversation[-1].content for _, p in everything() for e in p.examples]
    assert len(shown) >= 2 * 4 * len(NAMES) and len(set(shown)) == len(shown)
    assert [(a, p) for a in shown for p in prompts if alike(a, p)] == []


@pytest.mark.parametrize("name", [*NAMES, "hhh"])
def test_length_does_not_tell_the_better_reply(name: str) -> None:
    """ "Longer wins" and "shorter wins" are both near a coin in every file, and average lengths are close."""
    tests = pairs(name)
    assert 0.35 <= longer_wins(tests) <= 0.65
    better, worse = (sum(len(getattr(t, side)) for t in tests) for side in ("better", "worse"))
    assert 0.6 <= better / worse <= 1.4
    for test in tests:
        assert test.better != test.worse and max(len(test.better), len(test.worse)) <= 900


def test_replies_sound_like_replies() -> None:
    """Neither side is a label or a stub that a judge could tell from a real reply by its form."""
    for test in pairs(*NAMES):
        for reply in (test.better, test.worse):
            assert reply[-1] in '.!?)"`' or "\n" in reply or len(reply) < 30, reply
    openings = Counter(test.worse.split()[0] for test in pairs(*NAMES))
    assert max(openings.values()) <= len(pairs(*NAMES)) / 10  # no single word gives a worse reply away
    shouted = [sum("!" in getattr(test, side) for test in pairs(*NAMES)) for side in ("better", "worse")]
    assert shouted[0] >= shouted[1] / 3  # nor does an exclamation mark


def test_hhh_is_harmless_helpful_and_honest() -> None:
    """Nothing of its own, nothing lost, each id once, and helpfulness yields to harm and honesty."""
    parts = [p for name in ("harmless", "helpful", "honest") for p in shipped(name).principles]
    assert list(shipped("hhh").principles) == parts
    raw = yaml.safe_load((FOLDER / "hhh.yaml").read_text(encoding="utf-8"))
    assert raw["extends"] == ["harmless.yaml", "helpful.yaml", "honest.yaml"] and "principles" not in raw
    helpful = max(p.priority for p in shipped("helpful").principles)
    assert helpful < min(p.priority for name in ("harmless", "honest") for p in shipped(name).principles)


def test_hhh_keeps_the_principles_that_it_had() -> None:
    """Rows that drew one of them before the split draw it by the same weight, for the same steps."""
    found = {p.id: (p.priority, p.weight, p.use) for p in shipped("hhh").principles}
    assert {id: found[id] for id in EARLIER} == EARLIER
    assert next(p for p in shipped("hhh").principles if p.id == "ask-when-unclear").applies_to == ("helpful",)


def test_clinical_levels_put_life_above_law_above_help() -> None:
    """Whatever guards life or law applies to every prompt; only topical principles need a tag."""
    by_id = {p.id: p for p in shipped("clinical-information").principles}
    levels = ["emergency-first", "no-diagnosis", "doses-from-the-label", "evidence-and-doubt"]
    priorities = [by_id[id].priority for id in (*levels, "answer-within-the-limits")]
    assert priorities == sorted(set(priorities), reverse=True)
    tagged = {p.id: p.applies_to for p in by_id.values() if p.applies_to}
    assert {by_id[id].priority for id in tagged} == {10}
    assert set().union(*tagged.values()) == {"medication", "pregnancy", "child"}
    head = (FOLDER / "clinical-information.yaml").read_text(encoding="utf-8").split("schema: 1\n")[0]
    assert "neither medical nor legal advice" in head and "have it reviewed" in head
    assert all(f"`{tag}`" in head for tag in ("medication", "pregnancy", "child"))


def test_the_readme_lists_them() -> None:
    """Its table names every file with its true number of principles, and its lint command checks all of them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)\.yaml` \| (\d+) \|", readme, re.M))
    assert rows == {name: str(len(shipped(name).principles)) for name in FILES}
    command = next(line for line in readme.splitlines() if " constitution lint " in line)
    assert set(re.findall(r"constitutions/([a-z-]+)\.yaml", command)) == set(FILES)
