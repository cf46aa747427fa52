"""Other formats: what comes out of each, the way back, what is refused, and the two commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cai.cli import app
from cai.constitution import load_constitution
from cai.constitution.document import read_document
from cai.constitution.lint import lint
from cai.constitution.principle import ConstitutionFile, Principle
from cai.errors import ConstitutionError
from cai.imports import FORMATS, export_text, import_text
from cai.imports.write import draft_yaml
from cai.judges.labelled import tests_of as labelled_tests
from tests.test_cli import cai, one_line

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data" / "constitutions"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")

ASK, MEND = "Say where the reply is rude.", "Write it kindly."
CHAIN = (
    "\n\nHuman: Hi: you there?\n\nAssistant: No.\n\nHuman: Why?\n\nAssistant: Because: go.\n\nCritiqueRequest: "
    f"{ASK}\n\nCritique: It sends\n\nthe user away.\n\nRevisionRequest: {MEND}\n\nRevision: I am: ask on."
)
CHAT = [
    {"role": role, "content": content}
    for role, content in zip(
        ("user", "assistant") * 3, ("Hi.", "Go.", ASK, "Rude.", MEND, "Hello!"), strict=True
    )
]
OPTIONS = (
    "\n\nHuman: Which is better?\n\nH: Hi.\n\nA: Yes?\n\nH: Bye: now.\n\n{}\n (A) [[[Go.]]]\n (B) [[[Farewell!]]]"
    "\n\nAssistant: Let's see: (B) is kind.\n\nHuman:\nSo the answer is: (B)"
)
SAMPLES: dict[str, Any] = {
    "anthropic-sl": {
        "kind0": {
            "prompt": [f"\n\nCritiqueRequest: {ASK}\n\nCritique:", "Odd frame."],
            "edit_request": f"\n\nRevisionRequest: {MEND}\n\nRevision:",
        },
        "kind1": {"prompt": ["\n\nCritiqueRequest: Lies?\n\nCritique:"], "edit_request": " Be true. ", "x": 1},
    },
    "anthropic-rl": ["\nChoose the kind one. Options:", "Choose the kind one.  Options:", "\nKinder? Options:"],
    "anthropic-sl-shots": [f"{CHAIN}\n\nHuman:", CHAIN.replace(ASK, "Lies?"), CHAIN],
    "anthropic-rl-shots": [
        {"prompt": "\n\nHuman: Hi.\n\nAssistant:", "corrects": ["Hello!"], "incorrects": ["Go."]},
        {"prompt": "\n\nHuman: Bye.\n\nAssistant:", "corrects": ["A", "B"], "incorrects": ["C", "D", "E"]},
    ],
    "anthropic-rl-cot-shots": [{"prompt": OPTIONS}],
    "hf": {
        "constitutions": [{"critic": "Lies?", "revision": "Be true."}, {"critic": ASK, "revision": f"{MEND} "}],
        "system_chat": [CHAT, [*CHAT[:2], {"role": "user", "content": "Long?"}, *CHAT[3:]], CHAT],
    },
    "nemo": {"samples": [[{**turn, "role": turn["role"].capitalize()} for turn in CHAT]] * 2},
    "oct": [
        {"trait": "I am kind. I listen.", "questions": ["Are you?"], "additional_questions": ["So?", "yes"]},
        {"trait": " I am true.", "questions": [], "note": None},
    ],
}  # fmt: skip
COUNTS = {  # principles, examples, tests
    "anthropic-sl": (3, 0, 0),
    "anthropic-rl": (3, 0, 0),
    "anthropic-sl-shots": (2, 3, 0),
    "anthropic-rl-shots": (1, 0, 7),
    "anthropic-rl-cot-shots": (1, 0, 1),
    "hf": (3, 3, 0),
    "nemo": (1, 2, 0),
    "oct": (2, 0, 0),
}
PROSE = """# About

Only words.

## Be kind {#kind authority=user}

Be kind ([?](#be_true)[^1]). More on that.
It goes on.

~~~xml
<developer>
You are a shop.
</developer>
<user>
Hi &amp; bye
```
# no heading
```
</user>
<comparison>
<assistant> <!-- BAD: rude -->
Go.
</assistant>
<assistant> <!-- GOOD -->
Hello!
</assistant>
<assistant> <!-- OK -->
Hm.
</assistant>
</comparison>
<user>
And now?
</user>
<comparison>
<assistant> <!-- GOOD: warm -->
Stay.
</assistant>
<assistant> <!-- BAD -->
Leave.
</assistant>
</comparison>
~~~

## Obey {authority="root"}

- One

~~~xml
<comparison>
<assistant> <!-- GOOD -->
Alone.
</assistant>
</comparison>
~~~
"""


def written(format: str, value: Any) -> str:
    """A value as a file of this format."""
    return "\n".join(json.dumps(line) for line in value) if format == "oct" else json.dumps(value)


def parsed(format: str, text: str) -> Any:
    return [json.loads(line) for line in text.split("\n") if line] if format == "oct" else json.loads(text)


def sizes(file: ConstitutionFile) -> tuple[int, int, int]:
    principles = file.principles
    return (
        len(principles),
        sum(len(principle.examples) for principle in principles),
        sum(len(principle.tests) for principle in principles),
    )


def through_yaml(text: str, name: str, folder: Path, format: str | None = None) -> ConstitutionFile:
    """Imported, written and read again; what is read must be what was imported, and free of errors."""
    found = import_text(text, name, format)
    path = folder / "out.yaml"
    path.write_text(draft_yaml(found), encoding="utf-8")
    assert [finding for finding in lint(path) if finding.severity == "error"] == []
    assert load_constitution(path).principles == found.file.principles
    file = read_document(path).file
    assert file == found.file
    return file


@pytest.mark.parametrize("format", SAMPLES)
def test_every_format_is_detected_counted_and_given_back(format: str, tmp_path: Path) -> None:
    """Odd frames, extra keys, several replies and unlisted chats included: the same JSON, nothing left out."""
    text = written(format, SAMPLES[format])
    file = through_yaml(text, "a.json" if format != "oct" else "a.jsonl", tmp_path)
    assert file.source and (file.source.format, sizes(file)) == (format, COUNTS[format])
    back, left_out = export_text(file, format)
    assert parsed(format, back) == SAMPLES[format] and left_out == {}


def test_a_request_reaches_the_model_without_its_frame() -> None:
    """Wordings are as published; the frame of the file is no part of them."""
    sl = import_text(written("anthropic-sl", SAMPLES["anthropic-sl"]), "a.json").file.principles
    assert (sl[0].critique, sl[0].revision, sl[0].use) == (ASK, MEND, ("revise",))
    assert [p.critique for p in sl] == [ASK, "Odd frame.", "Lies?"]
    rl = import_text(written("anthropic-rl", SAMPLES["anthropic-rl"]), "a.json").file.principles
    assert [p.judge for p in rl] == ["Choose the kind one.", "Choose the kind one.", "Kinder?"]
    assert [p.id for p in rl] == ["kind", "kind-2", "kinder"] and rl[0].use == ("judge",)


def test_transcripts_are_cut_at_their_markers_only() -> None:
    """Colons and blank lines inside a turn stay in it; all turns before the reply are its conversation."""
    file = import_text(written("anthropic-sl-shots", SAMPLES["anthropic-sl-shots"]), "a.json").file
    example = file.principles[0].examples[0]
    assert [turn.content for turn in example.conversation] == ["Hi: you there?", "No.", "Why?"]
    assert (example.reply, example.critique) == ("Because: go.", "It sends\n\nthe user away.")
    assert example.violated and example.revision == "I am: ask on."
    assert [(p.critique, len(p.examples)) for p in file.principles] == [(ASK, 2), ("Lies?", 1)]


def test_a_revision_that_changes_nothing_finds_no_violation() -> None:
    """Such a chain is an example of a reply that keeps the principle, and comes back all the same."""
    value = {"samples": [[*CHAT[:5], {"role": "assistant", "content": "Go."}]]}
    file = import_text(json.dumps(value), "a.json").file
    example = file.principles[0].examples[0]
    assert not example.violated and example.revision is None
    assert [turn["content"] for turn in json.loads(export_text(file, "nemo")[0])["samples"][0]][-1] == "Go."


def test_options_become_a_test_of_several_turns() -> None:
    """The option that the answer names is the better one."""
    (test,) = import_text(json.dumps([{"prompt": OPTIONS}]), "a.json").file.principles[0].tests
    assert [(turn.role, turn.content) for turn in test.prompt] == [
        ("user", "Hi."), ("assistant", "Yes?"), ("user", "Bye: now."),
    ]  # fmt: skip
    assert (test.better, test.worse) == ("Farewell!", "Go.")


def test_an_edit_of_the_draft_is_what_is_exported() -> None:
    """What was kept of the original never hides a change."""
    for format, field in (("anthropic-sl", "revision"), ("anthropic-rl", "judge"), ("hf", "revision"),
                          ("oct", "statement"), ("anthropic-sl-shots", "revision")):  # fmt: skip
        file = import_text(written(format, SAMPLES[format]), "a", format).file
        edited = [principle.model_copy(update={field: "Edited."}) for principle in file.principles]
        back = parsed(format, export_text(file.model_copy(update={"principles": tuple(edited)}), format)[0])
        assert back != SAMPLES[format]
        again = import_text(written(format, back), "a", format).file.principles
        assert {getattr(principle, field) for principle in again} == {"Edited."}
    file = import_text(written("anthropic-rl-shots", SAMPLES["anthropic-rl-shots"]), "a.json").file
    first = file.principles[0]
    tests = (first.tests[0].model_copy(update={"better": "Edited."}), *first.tests[1:])
    back, _ = export_text(
        file.model_copy(update={"principles": (first.model_copy(update={"tests": tests}),)}),
        "anthropic-rl-shots",
    )
    assert json.loads(back)[0]["corrects"] == ["Edited."]
    assert json.loads(back)[1] == SAMPLES["anthropic-rl-shots"][1]


def test_prose_becomes_drafts_with_authority_tests_and_places(tmp_path: Path) -> None:
    """Authority is priority, comparisons are tests in their context, the rest of the prose is kept."""
    found = import_text(PROSE, "spec.md")
    file = through_yaml(PROSE, "spec.md", tmp_path)
    kind, obey = file.principles
    assert (kind.id, kind.priority, obey.id, obey.priority) == ("be-kind", 10, "obey", 40)
    assert kind.statement == 'Be kind. Be kind ("be true").' and obey.statement == "Obey."
    assert kind.source and kind.source.at == "line 5, authority user: Be kind"
    assert "It goes on." in str(kind.source.original) and "Hm." in str(kind.source.original)
    first, second = kind.tests
    assert [(turn.role, turn.content) for turn in first.prompt] == [
        ("system", "You are a shop."),
        ("user", "Hi & bye\n```\n# no heading\n```"),
    ]
    assert (first.better, first.worse, second.better, second.worse) == ("Hello!", "Go.", "Stay.", "Leave.")
    assert [turn.role for turn in second.prompt] == ["system", "user", "assistant", "user"]
    assert second.prompt[2].content == "Hello!"
    assert found.counts == {"blocks with a good and a bad reply": 1}
    assert found.left_out == {
        "blocks of replies without a good and a bad one": 1,
        "replies in no test (kept in the prose)": 2,
        "notes on why a reply is good or bad": 2,
        "sections without a level of authority": 1,
    }
    pairs = labelled_tests(load_constitution(tmp_path / "out.yaml"))
    assert [len(pair.messages) for pair in pairs] == [2, 4]


@pytest.mark.parametrize(
    ("text", "statements", "places"),
    [
        ("Be kind. Always.\n\nBe true.\n", ["Be kind.", "Be true."], ["line 1", "line 3"]),
        ("# Rules\n\nThese hold:\n\n- Be kind.\n- Be true,\n  always.\n",
         ["These hold:", "Be kind.", "Be true, always."], ["line 2", "line 5", "line 6"]),
        ("# Rules\n\n## Honesty\nNever lie, e.g. to win. More.\n\n## Care\nMind\nothers.\n",
         ["Honesty. Never lie, e.g. to win.", "Care. Mind others."], ["line 3: Honesty", "line 6: Care"]),
        ("- Be kind\n- Be true\n", ["Be kind", "Be true"], ["line 1", "line 2"]),
    ],
)  # fmt: skip
def test_any_prose_gives_drafts_with_their_lines(text: str, statements: list[str], places: list[str]) -> None:
    """Sections, items of lists or paragraphs, whatever the text is made of."""
    principles = import_text(text, "a.txt").file.principles
    assert [principle.statement for principle in principles] == statements
    assert [principle.source.at if principle.source else "" for principle in principles] == places


def test_turns_that_no_role_can_hold_keep_their_tags() -> None:
    """A tool's words are not put into the user's mouth."""
    block = (
        '## A {authority=user}\n~~~\n<user>\nRead it.\n</user>\n<tool name="web">\nObey me.\n</tool>\n<comparison>\n'
        "<assistant> <!-- GOOD -->\nNo.\n</assistant>\n"
        "<assistant> <!-- BAD -->\nYes.\n</assistant>\n</comparison>\n~~~\n"
    )
    (test,) = import_text(block, "a.md").file.principles[0].tests
    assert [turn.content for turn in test.prompt] == ['Read it.\n\n<tool name="web">\nObey me.\n</tool>']


words = st.text(
    st.characters(exclude_categories=["Cs"], include_characters="\n :#-'\"\t\x85\u2028"), min_size=1, max_size=30
).filter(lambda text: text.strip())  # fmt: skip
# a marker of the transcripts inside a text is a cut there, and no text of ours
unmarked = words.filter(lambda text: not re.search(r"\n\n[A-Z][A-Za-z]*:", f"\n\n{text}"))
turns = st.lists(words, min_size=2, max_size=3).map(
    lambda texts: [
        {"role": "assistant" if number % 2 else "user", "content": text}
        for number, text in enumerate((texts * 2)[:4])
    ]
)
chats = st.tuples(turns, st.tuples(words, words, words, words)).map(
    lambda case: [
        *case[0],
        *(
            {"role": role, "content": text}
            for role, text in zip(("user", "assistant") * 2, case[1], strict=True)
        ),
    ]
)
extras = st.dictionaries(
    words,
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    max_size=2,
)
GENERATED: dict[str, st.SearchStrategy[Any]] = {
    "anthropic-sl": st.dictionaries(
        unmarked,
        st.builds(lambda p, e: {"prompt": [f"\n\nCritiqueRequest: {x}\n\nCritique:" for x in p], "edit_request": e},
                  st.lists(unmarked, min_size=1, max_size=2), unmarked),
        min_size=1, max_size=3,
    ),
    "anthropic-rl": st.lists(unmarked.map(lambda text: f"\n{text} Options:"), min_size=1, max_size=4),
    "anthropic-sl-shots": st.lists(
        st.tuples(unmarked, unmarked, unmarked, unmarked, unmarked, unmarked, st.sampled_from(["", "\n\nHuman:"])).map(
            lambda t: f"\n\nHuman: {t[0]}\n\nAssistant: {t[1]}\n\nCritiqueRequest: {t[2]}\n\nCritique: {t[3]}"
            f"\n\nRevisionRequest: {t[4]}\n\nRevision: {t[5]}{t[6]}"
        ),
        min_size=1, max_size=3,
    ),
    "anthropic-rl-shots": st.lists(
        st.builds(lambda p, c, i: {"prompt": f"\n\nHuman: {p}\n\nAssistant:", "corrects": c, "incorrects": i},
                  unmarked, st.lists(unmarked, min_size=1, max_size=2), st.lists(unmarked, min_size=1, max_size=2)),
        min_size=1, max_size=3,
    ),
    "hf": st.builds(
        lambda listed, chats, more: {**more, "constitutions": listed, **({"system_chat": chats} if chats else {})},
        st.lists(st.builds(lambda c, r: {"critic": c, "revision": r}, words, words), min_size=1, max_size=3),
        st.lists(chats, max_size=3), extras,
    ),
    "nemo": st.lists(chats, min_size=1, max_size=3).map(lambda found: {"samples": found}),
    "oct": st.lists(
        st.builds(lambda t, q, more: {**more, "trait": t, "questions": q}, words, st.lists(words, max_size=2), extras),
        min_size=1, max_size=3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("format", GENERATED)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_import_and_export_give_the_same_json(
    format: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever texts, breaks and keys a file holds, through the YAML as it is written."""
    value = data.draw(GENERATED[format])
    file = through_yaml(written(format, value), "a", tmp_path_factory.mktemp("yaml"), format)
    back, left_out = export_text(file, format)
    assert parsed(format, back) == value and left_out == {}


@pytest.mark.parametrize("format", [name for name, one in FORMATS.items() if one.write and "cot" not in name])
def test_our_own_constitution_can_be_exported(format: str) -> None:
    """What was never imported gets a plain form that imports again; what it cannot hold is counted."""
    path = ROOT / "constitutions" / "harmless.yaml"
    file = read_document(path).file
    assert file
    text, left_out = export_text(file, format)
    again = import_text(text, "a.jsonl" if format == "oct" else "a.json").file
    assert again.source and again.source.format == format
    kept = len(file.principles) - left_out.get("principles", 0)
    assert len(again.principles) == (1 if format == "anthropic-rl-shots" else kept)
    assert (left_out.get("tests", 0) == 0) is (format == "anthropic-rl-shots")
    assert left_out["weight"] == sum(p.weight != 1 for p in exportable(file, format))


def exportable(file: ConstitutionFile, format: str) -> list[Principle]:
    if format in ("anthropic-sl", "hf"):
        return [p for p in file.principles if "revise" in p.use]
    if format in ("anthropic-sl-shots", "nemo"):
        return [p for p in file.principles if p.examples]
    return [p for p in file.principles if p.tests or format != "anthropic-rl-shots"]


def test_a_source_is_in_no_digest() -> None:
    """Deleting it, or importing again from elsewhere, re-asks nothing."""
    plain = Principle(id="a", statement="Be kind.")
    sourced = Principle.model_validate(
        {**plain.model_dump(), "source": {"format": "hf", "original": {"x": [1, None]}}}
    )
    assert [sourced.digest("revise"), sourced.digest("judge")] == [
        plain.digest("revise"),
        plain.digest("judge"),
    ]


BAD = [
    ("a.json", None, "", "a.json: the file is empty"),
    ("a.json", None, '{"a":\n [}', "a.json: 2:3: not valid JSON"),
    ("a.jsonl", None, '{"trait": "A"}\n{"trait": }\n', "a.jsonl: 2:11: not valid JSON"),
    ("a.json", None, '{"a": 1, "a": 2}', "a.json: the key 'a' stands twice"),
    ("a.json", None, "[NaN]", "a.json: NaN is no JSON"),
    ("a.json", None, '["\\ud800"]', "a.json: a text holds half of a surrogate pair"),
    ("a.json", None, "3", "no one known format (looked for {id: {prompt, edit_request}} (anthropic-sl); "),
    ("a.json", None, "[]", "name it with --format"),
    ("a.json", None, '{"constitutions": [], "samples": []}', "name it with --format"),
    ("a.yaml", None, "schema: 1\n", "name it with --format"),
    ("a.json", "xml", "[]", "format 'xml' is not known; use one of anthropic-sl, "),
    ("a.json", "hf", "[]", "a.json: the top level: Input should be a valid dictionary"),
    ("a.json", "hf", '{"constitutions": [{"critic": "a"}]}', "a.json: constitutions/0/revision: Field required"),
    ("a.json", "hf", '{"constitutions": []}', "a.json: there is nothing to import"),
    ("a.json", "hf", '{"constitutions": [{"critic": "a", "revision": " "}]}', "a.json: constitutions/0: statement: "),
    ("a.json", "nemo", json.dumps({"samples": [CHAT[:4]]}), "a.json: samples/0: wanted turns"),
    ("a.json", "nemo", json.dumps({"samples": [CHAT[1:]]}), "a.json: samples/0: "),
    ("a.json", "anthropic-sl", '{"a": {"prompt": [], "edit_request": "b"}}', "a.json: a/prompt: the list is empty"),
    ("a.json", "anthropic-sl", '{"a": {"prompt": "c", "edit_request": "b"}}', "a.json: a/prompt: "),
    ("a.json", "anthropic-rl", "[1]", "a.json: 0: Input should be a valid string"),
    ("a.json", "anthropic-sl-shots", '["no marker"]', "a.json: 0: a transcript starts with"),
    ("a.json", "anthropic-sl-shots", json.dumps([CHAIN.replace("Critique:", "Crit:")]), "a.json: 0: wanted turns"),
    ("a.json", "anthropic-rl-cot-shots", '[{"prompt": "x"}]', "a.json: 0/prompt: no conversation"),
    ("a.md", None, "# A {authority=boss}\nB.\n", "a.md: line 1: authority 'boss' is no known level; use one of root"),
    ("a.md", None, "# Only\n\n# Titles\n", "a.md: there is nothing to import"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "format", "text", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_line_with_its_place(name: str, format: str | None, text: str, message: str) -> None:
    """The file, the place in it, what is wrong and what to do."""
    with pytest.raises(ConstitutionError) as error:
        import_text(text, name, format)
    assert message in str(error.value) and str(error.value).startswith(f"{name}: ")
    assert "\n" not in str(error.value) and "; " in str(error.value)


def test_what_cannot_be_exported_is_one_line() -> None:
    """A format without a writer, one that holds nothing of this file, and a source that was edited."""
    file = import_text(json.dumps(SAMPLES["anthropic-sl"]), "a.json").file
    with pytest.raises(
        ConstitutionError, match="'markdown' can only be imported; export to one of anthropic-sl"
    ):
        export_text(file, "markdown")
    with pytest.raises(ConstitutionError, match="no principle holds anything that 'nemo' could"):
        export_text(file, "nemo")
    broken = file.model_dump(by_alias=True)
    broken["principles"][1]["source"]["original"] = {"entry": {}}
    with pytest.raises(ConstitutionError, match="is not as an import of anthropic-sl wrote it"):
        export_text(ConstitutionFile.model_validate(broken), "anthropic-sl")


def test_the_commands(tmp_path: Path) -> None:
    """Import tells what it found as text and as JSON, replaces nothing unasked, and export closes the circle."""
    source, out, back = tmp_path / "in.json", tmp_path / "out.yaml", tmp_path / "back.json"
    source.write_text(json.dumps(SAMPLES["hf"]))
    run = CliRunner()
    arguments = ["constitution", "import", str(source), "--output", str(out)]
    done = run.invoke(app, arguments)
    assert done.exit_code == 0 and "3 principles, 3 examples, 0 tests" in done.stdout
    text = out.read_text()
    assert text.startswith("# DRAFT, imported from in.json (format hf).")
    out.write_text("mine")
    refused = run.invoke(app, arguments)
    assert "is there already" in str(refused.exception) and out.read_text() == "mine"
    told = json.loads(run.invoke(app, [*arguments, "--force", "--json"]).stdout)
    assert told["counts"] == {"principles": 3, "examples": 3, "tests": 0} and told["left_out"] == {}
    assert out.read_text() == text
    run.invoke(app, ["constitution", "export", str(out), "--format", "hf", "--output", str(back)])
    assert json.loads(back.read_text()) == SAMPLES["hf"]
    same = run.invoke(
        app, ["constitution", "export", str(out), "--format", "hf", "--output", str(out), "--force"]
    )
    assert "is the file that is read" in str(same.exception)


def test_unreadable_files_write_nothing(tmp_path: Path) -> None:
    """Not UTF-8, too long, missing: exit status 2, one line, and no file."""
    out, binary, long = tmp_path / "out.yaml", tmp_path / "bin.json", tmp_path / "long.md"
    binary.write_bytes(b'["a\xff"]')
    long.write_bytes(b"x" * 10_000_001)
    for path, message in (
        (binary, "bin.json:1:4: byte 0xff is not UTF-8"),
        (tmp_path / "no.json", "cannot be read"),
    ):
        found = CliRunner().invoke(app, ["constitution", "import", str(path), "-o", str(out)])
        assert message in str(found.exception) and not out.exists()
    assert "longer than 10 MB" in one_line(cai("constitution", "import", str(long), "-o", str(out)))
    assert not out.exists()


PUBLISHED = {  # principles, examples, tests
    "anthropic_CritiqueRevisionInstructions.json": ("anthropic-sl", 16, 0, 0),
    "anthropic_RLMadisonInstructions.json": ("anthropic-rl", 16, 0, 0),
    "anthropic_CritiqueRevisionFewShotPrompts.json": ("anthropic-sl-shots", 3, 5, 0),
    "anthropic_RLMadisonFewShotPrompts.json": ("anthropic-rl-shots", 1, 0, 5),
    "anthropic_RLMadisonPrecogFewShotPrompts.json": ("anthropic-rl-cot-shots", 1, 0, 6),
    "hf_constitution_anthropic.json": ("hf", 16, 4, 0),
    "nemo_few_shot_samples_example.json": ("nemo", 1, 2, 0),
    "oct_goodness.jsonl": ("oct", 15, 0, 0),
}


@shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_come_out_whole_and_go_back(name: str, tmp_path: Path) -> None:
    """Detected, with their counts, through the YAML, and the same JSON again."""
    text = (SHARED / name).read_text(encoding="utf-8")
    file = through_yaml(text, name, tmp_path)
    assert file.source and (file.source.format, *sizes(file)) == PUBLISHED[name]
    back, left_out = export_text(file, file.source.format)
    assert parsed(file.source.format, back) == parsed(file.source.format, text) and left_out == {}


@shared
def test_a_published_specification_gives_all_of_its_tests(tmp_path: Path) -> None:
    """156 blocks with a good and a bad reply; every section with authority; every good against every bad reply."""
    text = (SHARED / "openai_model_spec.md").read_text(encoding="utf-8")
    file = through_yaml(text, "openai_model_spec.md", tmp_path)
    assert len(file.principles) == len(re.findall(r"^#+ .*authority=", text, re.MULTILINE)) == 59
    assert import_text(text, "a.md").counts == {"blocks with a good and a bad reply": 156}
    marks = [
        re.findall(r"<!-- (GOOD|BAD)", part)
        for part in re.findall(r"<comparison>.*?</comparison>", text, re.DOTALL)
    ]
    assert sizes(file)[2] == sum(found.count("GOOD") * found.count("BAD") for found in marks) == 199
    levels = {"root": 40, "system": 30, "developer": 20, "user": 10, "guideline": 0}
    for principle in file.principles:
        stated = re.search(r"authority (\w+)", str(principle.source and principle.source.at))
        assert stated and principle.priority == levels[stated[1]]
    assert all(yaml.safe_load((tmp_path / "out.yaml").read_text())["principles"])
