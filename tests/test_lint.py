"""`constitution lint` and `show`: warnings that are right, where they stand, for people, for programs and for CI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.config import SourceConfig
from cai.constitution import load_constitution
from cai.constitution.lint import lint
from cai.errors import ConfigError
from tests.small_cli import ROOT

HEAD = 'schema: 1\nname: test\nversion: "1"\n'
GREETS = "The reply greets the user by name."
SHARED = ROOT.parent / "shared" / "data" / "constitutions"
WARNINGS = {  # what imports of SHARED say, kind by kind: no false alarm among them
    "no principle is used to": 7,
    "this is nearly the statement of": 5,
    "reaches the model as it stands": 2,
    "characters (over 400)": 1,
}


def write(folder: Path, name: str, *principles: str, extends: str = "") -> Path:
    """A file of principles in flow style."""
    path = folder / name
    body = "".join(f"  - {{{principle}}}\n" for principle in principles)
    path.write_text(
        HEAD + (f"extends: [{extends}]\n" if extends else "") + (f"principles:\n{body}" if body else "")
    )
    return path


def command(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and output of a `constitution` command."""
    done = CliRunner().invoke(app, ["constitution", *(str(argument) for argument in arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def test_vague_statements_are_told_where_they_are_read(tmp_path: Path) -> None:
    """Not where every stage has a wording of its own."""
    path = write(
        tmp_path, "c.yaml", "id: a, statement: Be good.", f"id: b, statement: {GREETS}",
        "id: c, statement: Be nice and appropriate, critique: Does it greet?, revision: Greet., judge: Which greets?",
        "id: d, statement: Be decent., judge: Which one greets?, use: [judge]",
        "id: e, statement: Act responsibly., judge: Which one greets?",
    )  # fmt: skip
    problem = "the statement names nothing that a reply does or does not do; say what a judge should look for"
    assert [str(f) for f in lint(path)] == [f"{path}:5:24: {problem}", f"{path}:9:24: {problem}"]


def test_contradictions_are_told_also_with_what_is_inherited(tmp_path: Path) -> None:
    """At the later statement of the file itself, naming the other one."""
    write(tmp_path, "base.yaml", "id: jokes, statement: The reply tells jokes.")
    path = write(
        tmp_path, "c.yaml", "id: dry, statement: Avoid telling jokes.", f"id: b, statement: {GREETS}",
        "id: c, statement: The reply should never greet the user by name.", extends="base.yaml",
    )  # fmt: skip
    assert [str(f) for f in lint(path)] == [
        f"{path}:6:26: this says the opposite of 'jokes'; keep one, or say when which one holds",
        f"{path}:8:24: this says the opposite of 'b'; keep one, or say when which one holds",
    ]


def test_a_changed_priority_is_not_silent(tmp_path: Path) -> None:
    """Lost, changed, or decided by the order of two parents; the same one is no matter."""
    write(
        tmp_path,
        "base.yaml",
        f"id: a, statement: {GREETS}, priority: 10",
        "id: b, statement: The reply sings.",
    )
    write(tmp_path, "other.yaml", f"id: a, statement: {GREETS}, priority: 5")
    lost = write(tmp_path, "lost.yaml", f"id: a, statement: {GREETS}", extends="base.yaml")
    rule = "which it replaces; a higher one wins where verdicts conflict"
    (found,) = lint(lost)
    assert str(found) == (
        f"{lost}:6:10: 'a' has priority 0 here and 10 in base.yaml:5, {rule}; write the one that is meant"
    )
    changed = write(tmp_path, "changed.yaml", f"id: a, statement: {GREETS}, priority: 3", extends="base.yaml")
    (found,) = lint(changed)
    assert (found.line, found.column) == (
        6,
        70,
    ) and "has priority 3 here and 10 in base.yaml:5" in found.message
    both = write(tmp_path, "both.yaml", extends="base.yaml, other.yaml")
    assert [str(f) for f in lint(both)] == [
        f"{both}:4:10: 'a' has priority 5 in other.yaml and 10 in base.yaml:5, {rule}; change their order, or write "
        "the principle here as it is meant"
    ]
    same = write(tmp_path, "same.yaml", f"id: a, statement: {GREETS}, priority: 10", extends="base.yaml")
    assert lint(same) == []


@pytest.mark.parametrize(("written", "read"), [("010", 8), ("1_000", 1000), ("0x1F", 31), ("1:30", 90)])
def test_numbers_that_yaml_reads_in_its_own_way(written: str, read: int, tmp_path: Path) -> None:
    """They are valid, and rarely meant; plain ones are not told."""
    path = write(tmp_path, "c.yaml", f"id: a, statement: {GREETS}, weight: 1.50, priority: {written}")
    assert load_constitution(path).principles[0].priority == read
    (found,) = lint(path)
    assert (
        found.message == f"YAML reads {written} as {read}; write {read} if that is meant"
        and found.column == 84
    )


def test_tags_that_no_prompt_has(tmp_path: Path) -> None:
    """Tags of sources and of rows count, those of rows that are left out do not; without --config, silence."""
    path = write(
        tmp_path, "c.yaml", f"id: a, statement: {GREETS}, applies_to: [harmful, x]",
        "id: b, statement: The reply sings a song., applies_to: [medicl]",
        "id: c, statement: The reply ends with a question., applies_to: [poems]",
    )  # fmt: skip
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "Hi", "tags": "medical, x"}\n{"prompt": "Write!", "tags": ["poems", "old"]}\n'
    )
    config = tmp_path / "run.yaml"
    text = (ROOT / "flows" / "configs" / "embedded.yaml").read_text()
    before, after = text.split("prompts:\n")
    rest = after[after.index("\nmodels:") :]
    source = f"  - {{path: {tmp_path / 'p.jsonl'}, tags: [kind], only_tags: [medical]}}\n"
    config.write_text(f"{before}prompts:\n{source}{rest}")
    assert lint(path) == []
    status, told = command("lint", path, "--config", config)
    assert status == 0 and told.splitlines() == [
        f"{path}:6:61: warning: no prompt is tagged 'medicl', so none meets this principle; did you mean 'medical'?",
        f"{path}:7:69: warning: no prompt is tagged 'poems', so none meets this principle; "
        "the prompts' tags: 'kind', 'medical', 'x'",
    ]
    missing = SourceConfig(path=str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match=r"there is no file .*none\.jsonl"):
        lint(path, [missing])
    assert lint(write(tmp_path, "untagged.yaml", f"id: a, statement: {GREETS}"), [missing]) == []


def test_the_exit_status_tells_errors_from_warnings(tmp_path: Path) -> None:
    """2 for errors, 1 for warnings where --strict is given, else 0; all files are read, none is told twice."""
    good = write(tmp_path, "good.yaml", f"id: a, statement: {GREETS}")
    vague = write(tmp_path, "vague.yaml", "id: a, statement: Be good.")
    bad = write(tmp_path, "bad.yaml", f"id: A, statement: {GREETS}")
    child = write(tmp_path, "child.yaml", f"id: b, statement: {GREETS}", extends="bad.yaml")
    assert command("lint", good, "--strict") == (0, "")
    assert command("lint", vague)[0] == 0
    assert command("lint", good, vague, "--strict")[0] == 1
    status, told = command("lint", child, bad, vague, "--strict")
    assert status == 2 and [line.split(":")[0] for line in told.splitlines()] == [str(bad), str(vague)]
    assert [f["severity"] for f in json.loads(command("lint", bad, vague, "--json")[1])["findings"]] == [
        "error",
        "warning",
    ]


def test_annotations_for_github(tmp_path: Path) -> None:
    """One workflow command a finding, escaped as GitHub reads it, so that no text of a file is a command."""
    folder = tmp_path / "a,b:c%\n::error::x"
    folder.mkdir()
    path = write(folder, "c.yaml", 'id: a, statement: "Give 100% {of it} here."')
    bad = write(tmp_path, "bad.yaml", 'id: a, "state\\nment": x')
    name = str(path).replace("%", "%25").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    status, told = command("lint", path, bad, "--format", "github")
    assert status == 2 and told.splitlines()[0] == (
        f"::warning file={name},line=5,col=24::'{{of it}}' reaches the model as it stands; replace it by a text"
    )
    assert told.splitlines()[1].startswith(
        f"::error file={bad},line=5,col=13::unknown key 'state\\nment'; did you"
    )
    done = CliRunner().invoke(app, ["constitution", "lint", str(path), "--format", "xml"])
    assert isinstance(done.exception, ConfigError) and "use one of text, github" in str(done.exception)


def test_show_tells_where_principles_come_from(tmp_path: Path) -> None:
    """File and line, and what they replace; the keys of a constitution stay as they are."""
    base = write(tmp_path, "base.yaml", f"id: a, statement: {GREETS}", "id: b, statement: The reply sings.")
    middle = write(tmp_path, "middle.yaml", "id: a, statement: The reply waves.", extends="base.yaml")
    top = write(
        tmp_path, "top.yaml", "id: c, statement: x y, applies_to: [t]", "id: a, statement: The reply nods at the user.",
        extends="middle.yaml",
    )  # fmt: skip
    found = json.loads(command("show", top, "--json")[1])
    assert [(p["id"], p["origin"], p["replaces"]) for p in found["principles"]] == [
        (
            "a",
            {"file": str(top), "line": 7},
            [{"file": str(middle), "line": 6}, {"file": str(base), "line": 5}],
        ),
        ("b", {"file": str(base), "line": 6}, []),
        ("c", {"file": str(top), "line": 6}, []),
    ]
    plain = load_constitution(top).model_dump(mode="json")
    for principle in found["principles"]:
        del principle["origin"], principle["replaces"]
    assert found == plain


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_show_wraps_statements_between_words(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table fits the terminal, keeps half of it for statements, and prints markup and control characters inert."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    words = " ".join(f"word{number}" for number in range(60))
    write(tmp_path, "base.yaml", f"id: a, statement: {GREETS}")
    write(
        tmp_path, "c.yaml", f'id: a, statement: "[red]{words}\\e[2J", weight: 2.5, priority: 3, applies_to: [x]',
        extends="base.yaml",
    )  # fmt: skip
    status, told = command("show", "c.yaml")
    lines = told.splitlines()
    assert status == 0 and max(len(line) for line in lines) <= columns and "\x1b[2J" not in told
    assert "[red]word0" in told and all(f"word{number}" in told.split() for number in range(1, 59))
    assert sum("word" in line for line in lines) <= 60 * 7 / (columns * 0.45) + 1
    for fact in ("use judge, revise", "weight 2.5, priority 3", "for x", "c.yaml:6", "replaces base.yaml:5"):
        assert fact in told


@pytest.mark.skipif(not SHARED.is_dir(), reason="published constitutions are not here")
def test_imports_of_published_constitutions_are_not_drowned(tmp_path: Path) -> None:
    """Of 128 imported principles, 15 are warned of, each for a reason that a person can see."""
    files = []
    for source in sorted(SHARED.iterdir()):
        files.append(tmp_path / f"{source.stem}.yaml")
        assert command("import", source, "--output", files[-1])[0] == 0
    status, told = command("lint", *files)
    lines = told.splitlines()
    assert status == 0 and len(lines) == sum(WARNINGS.values())
    assert {kind: sum(kind in line for line in lines) for kind in WARNINGS} == WARNINGS
