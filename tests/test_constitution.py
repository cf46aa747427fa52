"""Constitutions: the draw, digests, files with what they extend, and every error at its line and column."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.constitution import Constitution, Example, Principle, draw, json_schema, load_constitution
from cai.constitution.document import Document, read_document
from cai.constitution.lint import lint
from cai.errors import ConstitutionError

FOLDER = Path(__file__).parent.parent / "constitutions"
ROWS = [f"p{number}/r0" for number in range(40)]
HEAD = 'schema: 1\nname: test\nversion: "1"\n'


def a_principle(id: str, **more: Any) -> Principle:
    return Principle.model_validate({"id": id, "statement": f"Keep {id}.", **more})


def constitution(*principles: Principle) -> Constitution:
    return Constitution(name="test", version="1", principles=principles)


def drawn(subject: Constitution, row: str, k: int, seed: int = 0, tags: tuple[str, ...] = ()) -> list[str]:
    return [p.id for p in draw(subject, seed=seed, row_id=row, use="revise", tags=tags, k=k)]


ids = st.lists(
    st.from_regex(r"[a-z]{1,4}(-[a-z]{1,3})?", fullmatch=True), min_size=2, max_size=7, unique=True
)
several = st.tuples(ids, st.integers(0, 2**31)).flatmap(
    lambda drawn: st.tuples(
        st.lists(st.floats(0.01, 50), min_size=len(drawn[0]), max_size=len(drawn[0])).map(
            lambda weights: [
                a_principle(id, weight=weight) for id, weight in zip(drawn[0], weights, strict=True)
            ]
        ),
        st.just(drawn[1]),
        st.integers(0, len(drawn[0]) - 1),
    )
)


@settings(max_examples=40, deadline=None)
@given(several)
def test_removing_a_principle_moves_only_the_rows_that_drew_it(
    case: tuple[list[Principle], int, int],
) -> None:
    """The others keep their ranking in every row, so the first k change only where the removed one was."""
    principles, seed, index = case
    full = constitution(*principles)
    less = constitution(*principles[:index], *principles[index + 1 :])
    gone = principles[index].id
    for row in ROWS:
        ranking = drawn(full, row, len(principles), seed)
        assert sorted(ranking) == sorted(p.id for p in principles)
        assert drawn(less, row, len(principles), seed) == [id for id in ranking if id != gone]
        if gone not in drawn(full, row, 1, seed):
            assert drawn(less, row, 1, seed) == drawn(full, row, 1, seed)


@settings(max_examples=40, deadline=None)
@given(several)
def test_an_edit_or_a_new_weight_keeps_the_ranking_of_the_others(
    case: tuple[list[Principle], int, int],
) -> None:
    """Rewording re-routes nothing at all; a heavier principle only moves up."""
    principles, seed, index = case
    edited, heavier = list(principles), list(principles)
    edited[index] = principles[index].model_copy(update={"statement": "Something else."})
    heavier[index] = principles[index].model_copy(update={"weight": principles[index].weight * 7})
    moved = principles[index].id
    for row in ROWS:
        before = drawn(constitution(*principles), row, 9, seed)
        assert drawn(constitution(*edited), row, 9, seed) == before
        after = drawn(constitution(*heavier), row, 9, seed)
        assert after.index(moved) <= before.index(moved)
        assert [id for id in after if id != moved] == [id for id in before if id != moved]


@settings(max_examples=30, deadline=None)
@given(several, st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(case: tuple[list[Principle], int, int], random: Any) -> None:
    """A shuffled constitution draws the same principles and has the same digest."""
    principles, seed, _ = case
    shuffled = random.sample(principles, len(principles))
    assert constitution(*shuffled).digest == constitution(*principles).digest
    for row in ROWS:
        assert drawn(constitution(*shuffled), row, 3, seed) == drawn(constitution(*principles), row, 3, seed)


def test_a_new_principle_wins_its_share_of_rows_and_moves_no_other() -> None:
    """Of 4 equal principles, the added one takes about a quarter of the rows, all others stay."""
    three = constitution(*(a_principle(id) for id in "abc"))
    four = constitution(*(a_principle(id) for id in "abcd"))
    changed = [row for row in range(2000) if drawn(three, str(row), 1) != drawn(four, str(row), 1)]
    assert {drawn(four, str(row), 1)[0] for row in changed} == {"d"}
    assert 400 < len(changed) < 600  # 500 expected, standard deviation 19


def test_rows_draw_by_weight() -> None:
    """The first principle of 6,000 rows follows weights 5 : 3 : 1 within five standard deviations."""
    subject = constitution(*(a_principle(id, weight=w) for id, w in (("a", 5), ("b", 3), ("c", 1))))
    counts = Counter(drawn(subject, str(row), 1)[0] for row in range(6000))
    for id, share in (("a", 5 / 9), ("b", 3 / 9), ("c", 1 / 9)):
        assert abs(counts[id] - 6000 * share) < 5 * (6000 * share * (1 - share)) ** 0.5


def test_seed_row_and_use_each_change_the_draw() -> None:
    """Two seeds, two sets of rows and the two uses give unrelated draws."""
    subject = constitution(*(a_principle(id) for id in "abcd"))
    base = [drawn(subject, row, 4) for row in ROWS]
    judged = [[p.id for p in draw(subject, seed=0, row_id=row, use="judge", tags=(), k=4)] for row in ROWS]
    for other in ([drawn(subject, row, 4, seed=1) for row in ROWS], judged, [base[-1], *base[:-1]]):
        assert sum(a == b for a, b in zip(base, other, strict=True)) < 10  # 40 / 24 expected by chance


def test_draws_of_released_versions_stay() -> None:
    """The hash is part of the file format: another one would re-ask every call of every run."""
    subject = constitution(*(a_principle(id, weight=w) for id, w in (("a", 1), ("b", 2), ("c", 0.5))))
    assert [drawn(subject, row, 3, seed=7) for row in ("p/r0", "q/r0", "\ud800")] == [
        ["b", "c", "a"],
        ["b", "a", "c"],
        ["b", "c", "a"],
    ]
    assert a_principle("a").digest("revise") == "eafee5efd2a5346651677b2de6724e3f"


def test_only_principles_that_apply_are_drawn_and_none_twice() -> None:
    """`use` and tags select; asking for more than there are gives all of them once."""
    subject = constitution(
        a_principle("everywhere"),
        a_principle("harm", applies_to=["harmful", "toxic"]),
        a_principle("judging", use=["judge"]),
    )
    assert sorted(drawn(subject, "row", 9, tags=("toxic", "x"))) == ["everywhere", "harm"]
    assert drawn(subject, "row", 9, tags=("x",)) == ["everywhere"]
    judging = draw(subject, seed=0, row_id="row", use="judge", tags=(), k=9)
    assert sorted(p.id for p in judging) == ["everywhere", "judging"]
    assert drawn(constitution(a_principle("judging", use=["judge"])), "row", 2) == []


EXAMPLE = {"conversation": "Hi", "reply": "Go away.", "critique": "Unkind.", "violated": True}


@pytest.mark.parametrize(
    ("change", "revise", "judge"),
    [
        ({"statement": "Be kind."}, True, True),
        ({"critique": "Is it kind?"}, True, False),
        ({"revision": "Make it kind."}, True, False),
        ({"judge": "Which one is kinder?"}, False, True),
        ({"examples": [EXAMPLE]}, True, False),
        ({"examples": [{**EXAMPLE, "revision": "Hello!"}]}, True, False),
        ({"weight": 9, "priority": 3, "applies_to": ["x"], "id": "other"}, False, False),
        ({"tests": [{"prompt": "a", "better": "b", "worse": "c"}]}, False, False),
        ({"statement": "  Keep it.\n"}, False, False),
    ],
)
def test_a_digest_covers_what_its_stage_reads(change: dict[str, Any], revise: bool, judge: bool) -> None:
    """Each edit changes the digests of the stages that show it to a model, and no other."""
    base = {"id": "one", "statement": "Keep it."}
    before, after = Principle.model_validate(base), Principle.model_validate(base | change)
    assert (before.digest("revise") != after.digest("revise")) is revise
    assert (before.digest("judge") != after.digest("judge")) is judge
    assert (constitution(before).digest != constitution(after).digest) is (revise or judge)
    assert before.digest("revise") != before.digest("judge")


def test_statements_that_a_stage_never_shows_do_not_count() -> None:
    """Where own wordings replace the statement everywhere, editing it changes no digest."""
    wordings = {"critique": "C?", "revision": "R.", "judge": "J?"}
    one, two = a_principle("a", **wordings), a_principle("a", **wordings, statement="New.")
    assert (one.digest("revise"), one.digest("judge")) == (two.digest("revise"), two.digest("judge"))
    only_judge = a_principle("a", use=["judge"]), a_principle("a", use=["judge"], critique="Unread")
    assert constitution(only_judge[0]).digest == constitution(only_judge[1]).digest
    assert constitution(only_judge[0]).digest != constitution(a_principle("a")).digest


def test_comments_names_and_prose_are_not_digested(tmp_path: Path) -> None:
    """Two files that differ in everything but what a model reads have one digest."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(
        f"{HEAD}principles:\n  - {{id: a, statement: Be kind.}}\n  - {{id: b, statement: Be true.}}\n"
    )
    two.write_text(
        "# another comment\nversion: '2'\nschema: 1\nname: other\ndescription: Long prose.\nprinciples:\n"
        "  # first\n  - statement: >\n      Be true.\n    id: b\n    weight: 3\n  - id: a\n    statement: Be kind.\n"
    )
    assert load_constitution(one).digest == load_constitution(two).digest
    assert load_constitution(two).principles[0].statement == "Be true."


def test_a_prompt_text_is_a_conversation_of_one_turn() -> None:
    """Both ways to write an example's conversation give the same messages."""
    turns = {**EXAMPLE, "conversation": [{"role": "user", "content": "Hi"}]}
    assert Example.model_validate(EXAMPLE) == Example.model_validate(turns)


P = f"{HEAD}principles:\n"
OK = "  - id: ok\n    statement: Be kind.\n"
ERRORS = [
    ("", "1:1: the file is empty; start with 'schema: 1'"),
    ("- a\n", "1:1: a constitution is a mapping; start with 'schema: 1'"),
    ("name: [a\n", "2:1: not valid YAML: did not find expected ',' or ']'; mend the syntax here"),
    (f"{P}{OK}\tx: 1\n",
     "7:1: not valid YAML: a tab stands where YAML wants blanks; replace it by blanks"),
    ("a: 2024-13-45\n",
     "1:4: not valid YAML: this looks like a value of type timestamp, and is none; put it in quotes"),
    (f"{P}{OK}".replace("schema: 1", "schema: 2"), "1:9: 'schema' cannot be 2; write 'schema: 1'"),
    (f"{P}{OK}".replace("schema: 1\n", ""), "1:1: the key 'schema' is missing; add it"),
    (f"{P}{OK}".replace('"1"', "1.0"),
     "3:10: 'version' must be a text, and YAML reads 1.0 as the number 1.0; write \"1.0\""),
    (f"{HEAD}principels:\n{OK}", "4:1: unknown key 'principels'; did you mean 'principles'?"),
    (f"{P}  - id: a\n    statment: Be kind.\n", "6:5: unknown key 'statment'; did you mean 'statement'?"),
    (f"{P}{OK}    xyz: 1\n", "7:5: unknown key 'xyz'; known: id, statement, critique, revision, judge, weight, "
     "priority, applies_to, use, examples, tests, source"),
    (f"{P}{OK}{OK}", "7:9: principle 'ok' is already in line 5; rename or remove one"),
    (f"{P}{OK}    statement: Again.\n", "7:5: 'statement' stands here twice; keep one"),
    (f"{P}  - id: a\n    statement: '  '\n", "6:16: 'statement' is empty; write a text"),
    (f"{P}  - id: a\n    statement:\n", "6:15: 'statement' must be a text (got nothing); write a text"),
    (f"{P}  - id: a\n", "5:5: the key 'statement' is missing; add it"),
    (f"{P}  - id: no\n    statement: S.\n", "5:9: 'id' must be a text, and YAML reads no as false; write \"no\""),
    (f"{P}  - id: No Harm!\n    statement: S.\n", "5:9: id 'No Harm!' is not kebab-case; write it like 'no-harm'"),
    (f"{P}  - no-harm\n", "5:5: an entry of 'principles' must be a mapping (got 'no-harm'); write 'key: value' lines"),
    (f"{P}", "4:12: 'principles' must be a list (got nothing); write '- …' lines below it"),
    (f"{P}  []\n", "4:1: there are no principles; write at least one"),
    (HEAD, "1:1: there are no principles; write at least one"),
    (f"{P}{OK}    weight: 0\n", "7:13: 'weight' must be above 0 (got 0); raise it"),
    (f"{P}{OK}    weight: .inf\n", "7:13: 'weight' is not valid (got inf): Input should be a finite number; change it"),
    (f"{P}{OK}    weight: true\n", "7:13: 'weight' is not valid (got True): Input should be a valid number; change it"),
    (f"{P}{OK}    use: [judge, revize]\n", "7:18: 'use' cannot be 'revize'; use 'revise' or 'judge'"),
    (f"{P}{OK}    use: []\n", "7:10: 'use' must not be empty; write at least one entry, or remove it"),
    (f"{P}{OK}    use: judge\n", "7:10: 'use' must be a list (got 'judge'); write '- …' lines below it"),
    (f"{P}{OK}    examples:\n      - conversation: Hi\n        reply: Go.\n        critique: Rude.\n"
     "        violated: false\n        revision: Hello.\n",
     "8:9: a reply that breaks nothing has no revision; remove it, or set 'violated: true'"),
    (f"{P}{OK}    examples:\n      - conversation:\n          - role: user\n            content: Hi\n"
     "          - role: bot\n            content: Go.\n        reply: R\n        critique: C\n        violated: true\n",
     "11:19: 'role' cannot be 'bot'; use 'system', 'user' or 'assistant'"),
    (f"{P}{OK}    examples:\n      - conversation: [{{role: assistant, content: Hi}}]\n        reply: R\n"
     "        critique: C\n        violated: true\n",
     "8:9: the conversation must end in a user turn; end it with what the reply answers"),
    (f"{P}{OK}    tests:\n      - prompt: a\n        beter: b\n        worse: c\n",
     "9:9: unknown key 'beter'; did you mean 'better'?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ERRORS, ids=range(len(ERRORS)))
def test_errors_name_file_line_column_and_fix(tmp_path: Path, text: str, expected: str) -> None:
    """One line, complete: a user can go to the place and knows what to write."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConstitutionError) as error:
        load_constitution(path)
    assert str(error.value) == f"{path}:{expected}"
    assert next(str(f) for f in lint(path) if f.severity == "error") == str(error.value)


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    """No traceback of YAML or the file system reaches the user."""
    with pytest.raises(
        ConstitutionError, match=r"none\.yaml:1:1: cannot be read \(No such file or directory\); "
    ):
        load_constitution(tmp_path / "none.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(
        ConstitutionError, match=r"bin\.yaml:1:7: byte 0xff is not UTF-8; save the file as UTF-8$"
    ):
        load_constitution(tmp_path / "bin.yaml")
    (tmp_path / "loop.yaml").write_text(f"{HEAD}principles: &p\n  - *p\n")
    with pytest.raises(ConstitutionError, match=r"loop\.yaml:\d+:\d+: .+; .+"):
        load_constitution(tmp_path / "loop.yaml")


def test_all_errors_of_a_file_are_found_in_order(tmp_path: Path) -> None:
    """Lint tells everything at once, by position."""
    path = tmp_path / "c.yaml"
    path.write_text(f"{P}  - id: A\n    statement: S.\n  - id: b\n    weight: -1\n    foo: 1\n")
    assert [(f.line, f.column) for f in lint(path)] == [(5, 9), (7, 5), (8, 13), (9, 5)]


def write(folder: Path, name: str, *principles: str, extends: str = "") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    body = "".join(f"  - {{id: {p.split('=')[0]}, statement: {p.split('=')[1]}}}\n" for p in principles)
    path.write_text(
        HEAD + (f"extends: [{extends}]\n" if extends else "") + (f"principles:\n{body}" if body else "")
    )
    return path


def statements(path: Path) -> list[tuple[str, str]]:
    return [(p.id, p.statement) for p in load_constitution(path).principles]


def test_extends_puts_parents_first_and_replaces_in_place(tmp_path: Path) -> None:
    """An own principle takes the place of the inherited one of its id; new ones come after."""
    write(tmp_path, "base/base.yaml", "a=Base a", "b=Base b", "c=Base c")
    child = write(tmp_path, "child.yaml", "d=Child d", "b=Child b", extends="base/base.yaml")
    assert statements(child) == [("a", "Base a"), ("b", "Child b"), ("c", "Base c"), ("d", "Child d")]
    only = write(tmp_path, "only.yaml", extends="child.yaml")
    assert statements(only) == statements(child)


def test_a_file_extended_twice_does_not_undo_an_override(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a diamond the shared base is read once and comes before both files that extend it."""
    write(tmp_path, "base.yaml", "a=Base a")
    write(tmp_path, "left.yaml", "a=Left a", extends="base.yaml")
    write(tmp_path, "right.yaml", "r=Right r", extends="base.yaml")
    top = write(tmp_path, "top.yaml", extends="left.yaml, right.yaml")
    opened: list[str] = []

    def reading(path: Path) -> Document:
        opened.append(path.name)
        return read_document(path)

    monkeypatch.setattr("cai.constitution.extends.read_document", reading)
    assert statements(top) == [("a", "Left a"), ("r", "Right r")]
    assert opened == ["top.yaml", "left.yaml", "base.yaml", "right.yaml"]


def test_extends_errors_stand_where_they_are_written(tmp_path: Path) -> None:
    """Cycles, missing parents and errors inside a parent each name the file to edit."""
    one = write(tmp_path, "one.yaml", "a=A", extends="two.yaml")
    two = write(tmp_path, "two.yaml", "b=B", extends="one.yaml")
    cycle = f"{two}:4:11: the files extend each other (one.yaml → two.yaml → one.yaml); remove one of these"
    with pytest.raises(ConstitutionError) as error:
        load_constitution(one)
    assert str(error.value) == cycle
    lost = write(tmp_path, "lost.yaml", "a=A", extends="nowhere.yaml")
    with pytest.raises(ConstitutionError) as error:
        load_constitution(lost)
    problem = f"extends 'nowhere.yaml', but there is no file {tmp_path}/nowhere.yaml"
    assert str(error.value) == f"{lost}:4:11: {problem}; paths are relative to this file"
    bad = write(tmp_path, "bad.yaml", "A=A")
    with pytest.raises(ConstitutionError, match=r"bad\.yaml:5:10: id 'A' is not kebab-case"):
        load_constitution(write(tmp_path, "good.yaml", "a=A", extends=bad.name))


def test_lint_warns_without_keeping_a_file_from_loading(tmp_path: Path) -> None:
    """Near-duplicates, placeholders, long statements, unread wordings: told with their place, not raised."""
    path = tmp_path / "c.yaml"
    path.write_text(
        f"{P}  - id: a\n    statement: The reply never helps anyone to steal from a shop or from people.\n"
        "  - id: b\n    statement: The reply never helps anyone to steal from a shop or from a person.\n"
        f"  - id: c\n    statement: '{'Very long. ' * 40}'\n    use: [judge]\n    critique: Unread\n"
        "  - id: d\n    statement: Name what {principle} says.\n    revision: TODO write\n"
    )
    found = lint(path)
    assert [(f.line, f.column, f.severity) for f in found] == [
        (8, 16, "warning"),
        (10, 16, "warning"),
        (12, 15, "warning"),
        (14, 16, "warning"),
        (15, 15, "warning"),
    ]
    expected = (
        "nearly the statement of 'a'",
        "439 characters",
        "'critique' is never read",
        "'{principle}'",
        "'TODO'",
    )
    assert all(part in f.message for part, f in zip(expected, found, strict=True))
    assert len(load_constitution(path).principles) == 4


def test_lint_knows_inherited_statements_and_warns_once(tmp_path: Path) -> None:
    """A copy of a parent's statement is told in the child; the parent's own warnings are the parent's."""
    write(tmp_path, "base.yaml", "a=The reply is kind to all.", "b=TODO something quite different")
    child = write(tmp_path, "child.yaml", "c=The reply is kind to all!", extends="base.yaml")
    assert [str(f) for f in lint(child)] == [
        f"{child}:6:24: this is nearly the statement of 'a'; merge them or tell them apart"
    ]
    judges = tmp_path / "judges.yaml"
    judges.write_text(f"{P}{OK}    use: [judge]\n".replace("Be kind.", "Greet the user by name."))
    assert [f.message for f in lint(judges)] == [
        "no principle is used to revise; add 'revise' to the 'use' of one"
    ]


def test_two_principles_of_one_id_cannot_be_built() -> None:
    """What code builds by hand keeps the promise that files keep."""
    with pytest.raises(ValueError, match="same id; rename one"):
        constitution(a_principle("a"), a_principle("a"))


def test_the_committed_json_schema_is_current() -> None:
    """Editors complete from the file; write `json_schema()` into it after a change of the models."""
    committed = json.loads((FOLDER / "constitution.schema.json").read_text(encoding="utf-8"))
    assert committed == json_schema()


def test_the_json_schema_accepts_what_loads_and_refuses_what_does_not() -> None:
    """An editor underlines the same slips that the loader reports."""
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json_schema())
    for path in FOLDER.glob("*.yaml"):
        assert not list(validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8"))))
    for text in (HEAD, f"{P}  - id: A\n    statement: S.\n", f"{P}{OK}    weight: 0\n", f"{P}{OK}    statment: x\n",
                 f"{P}  - id: a\n    statement: ' '\n", f"{P}{OK}    use: [x]\n"):  # fmt: skip
        assert list(validator.iter_errors(yaml.safe_load(text))), text


@pytest.mark.parametrize("name", ["harmless", "hhh"])
def test_shipped_constitutions_are_clean(name: str) -> None:
    """No finding, one sentence a statement, and both stages have principles."""
    path = FOLDER / f"{name}.yaml"
    assert lint(path) == []
    assert path.read_text(encoding="utf-8").startswith(
        "# yaml-language-server: $schema=constitution.schema.json\n"
    )
    loaded = load_constitution(path)
    for principle in loaded.principles:
        assert principle.statement.count(".") == 1 and principle.statement.endswith(".")
    for use in ("revise", "judge"):
        assert sum(use in p.use for p in loaded.principles) >= 10
    assert sum(bool(p.tests) for p in loaded.principles) >= 6
    assert sum(bool(p.examples) for p in loaded.principles) >= 2


def test_hhh_holds_all_of_harmless() -> None:
    """What is harmful stays so when help and honesty are asked for as well."""
    inner, outer = (load_constitution(FOLDER / f"{name}.yaml").principles for name in ("harmless", "hhh"))
    assert outer[: len(inner)] == inner and len(outer) >= len(inner) + 6
