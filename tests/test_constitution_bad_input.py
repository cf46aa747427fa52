"""Whatever file is given as a constitution: one readable finding with its place, or a constitution; nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.constitution import load_constitution
from cai.constitution.document import MOST_ERRORS
from cai.constitution.lint import lint
from cai.errors import ConstitutionError
from cai.yaml_file import DEEPEST, MOST_BYTES
from tests.test_cli import cai, one_line

HEAD = 'schema: 1\nname: test\nversion: "1"\n'
P = f"{HEAD}principles:\n"
OK = "  - id: ok\n    statement: The reply greets the user by name.\n"
LAUGHS = "".join(f"  - &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12))

TEXTS: dict[str, tuple[str, str]] = {
    "empty": ("", "1:1: the file is empty; start with 'schema: 1'"),
    "only comments": ("# nothing\n\n", "1:1: the file is empty; start with 'schema: 1'"),
    "a list": ("- a\n", "1:1: a constitution is a mapping; start with 'schema: 1'"),
    "a text": ("just words\n", "1:1: a constitution is a mapping; start with 'schema: 1'"),
    "a mapping for a list": (
        f"{P}  ok: The reply greets.\n",
        "5:3: 'principles' must be a list (got {'ok': 'The reply greets.'}); write '- …' lines below it",
    ),
    "a list for a text": (
        f"{P}  - id: ok\n    statement: [a, b]\n",
        "6:16: 'statement' must be a text (got ['a', 'b']); write a text",
    ),
    "billion laughs": (
        f"{HEAD}x:\n  - &x0 {'x' * 60}\n{LAUGHS}",
        "11:10: not valid YAML: with its aliases unfolded, the file holds more than any constitution does; shorten it",
    ),
    "billion merges": (
        f"{HEAD}m0: &m0 {{a: b, c: d}}\n{MERGES}",
        "9:35: not valid YAML: with its aliases unfolded, the file holds more than any constitution does; shorten it",
    ),
    "a list that holds itself": (
        f"{HEAD}a: &a [*a]\n",
        "4:8: not valid YAML: *a stands within what it stands for; write it out",
    ),
    "a mapping that merges itself": (
        f"{HEAD}a: &a\n  <<: *a\n",
        "5:7: not valid YAML: *a stands within what it stands for; write it out",
    ),
    "an unknown alias": (
        f"{HEAD}description: *d\n",
        "4:14: not valid YAML: found undefined alias 'd'; mend the syntax here",
    ),
    "a merge of no mapping": (
        f"{P}  - <<: [a]\n",
        "5:10: not valid YAML: expected a mapping for merging, but found scalar; mend the syntax here",
    ),
    "a tab": (
        f"{P}\t- id: ok\n",
        "5:1: not valid YAML: a tab stands where YAML wants blanks; replace it by blanks",
    ),
    "a NUL": (f"{HEAD}description: a\0b\n", "4:15: the character U+0000 cannot stand in YAML; remove it"),
    "an escape": (f"{HEAD}# \u00e9\x1b[2J\n", "4:4: the character U+001B cannot stand in YAML; remove it"),
    "deep brackets": (
        f"{HEAD}a: {'[' * 5000}",
        f"4:{DEEPEST + 3}: not valid YAML: nested deeper than 100 levels; flatten it",
    ),
    "deep dashes": (
        "- " * 3000,
        f"1:{2 * DEEPEST + 1}: not valid YAML: nested deeper than 100 levels; flatten it",
    ),
    "two documents": (
        f"{P}{OK}---\n{P}{OK}",
        "7:1: not valid YAML: a second document ('---') begins here; write one constitution a file",
    ),
    "a colon": (
        f"{P}  - id: ok\n    statement: Be brief: no more.\n",
        "6:24: not valid YAML: a second ': ' in one line; put the text in quotes",
    ),
    "an at sign": (
        f"{P}  - id: ok\n    statement: @all\n",
        "6:16: not valid YAML: a text cannot begin with '@'; put it in quotes",
    ),
    "an open quote": (
        f"{P}  - id: ok\n    statement: 'Be\n",
        "7:1: not valid YAML: found unexpected end of stream; mend the syntax here",
    ),
    "half a character": (
        f'{HEAD}description: "\\ud800"\n',
        "4:17: not valid YAML: found invalid Unicode character escape code; mend the syntax here",
    ),
    "a list as key": (f"{HEAD}[a]: b\n", "4:1: not valid YAML: a key must be a text; write 'key: value'"),
    "a truth as key": (
        f"{HEAD}no: b\n{P[len(HEAD) :]}{OK}",
        "4:1: YAML reads the key no as false; put it in quotes",
    ),
    "a number as key of an original": (
        f"{P}{OK}    source: {{format: hf, original: {{a: {{1: b}}}}}}\n",
        "7:41: YAML reads the key 1 as the number 1; put it in quotes",
    ),
    "a date in an original": (
        f"{P}{OK}    source: {{format: hf, original: [a, 2024-01-31]}}\n",
        "7:40: ",
    ),
    "no such day": (
        f"{HEAD}description: 2024-13-45\n",
        "4:14: not valid YAML: this looks like a value of type timestamp, and is none; put it in quotes",
    ),
    "a number of 5000 digits": (
        f"{P}{OK}    priority: {'9' * 5000}\n",
        "7:15: not valid YAML: this looks like a value of type int, and is none; put it in quotes",
    ),
    "a tag that runs code": (
        f"{HEAD}description: !!python/object/apply:os.getcwd []\n",
        "4:14: not valid YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd'; mend the syntax here",
    ),
    "a tag that does not fit": (
        f"{HEAD}description: !!bool maybe\n",
        "4:14: not valid YAML: this looks like a value of type bool, and is none; put it in quotes",
    ),
    "the version 1.10": (
        f"{P}{OK}".replace('"1"', "1.10"),
        "3:10: 'version' must be a text, and YAML reads 1.10 as the number 1.1; write \"1.10\"",
    ),
    "a date as version": (
        f"{P}{OK}".replace('"1"', "2024-01-31"),
        "3:10: 'version' must be a text, and YAML reads 2024-01-31 as a date; write \"2024-01-31\"",
    ),
    "null as version": (
        f"{P}{OK}".replace('"1"', "~"),
        "3:10: 'version' must be a text (got nothing); write a text",
    ),
    "no as id": (
        f"{P}{OK}".replace("ok", "no"),
        "5:9: 'id' must be a text, and YAML reads no as false; write \"no\"",
    ),
    "hexadecimal as id": (
        f"{P}{OK}".replace("ok", "0x1F"),
        "5:9: 'id' must be a text, and YAML reads 0x1F as the number 31; write \"0x1F\"",
    ),
    "octal as id": (
        f"{P}{OK}".replace("ok", "010"),
        "5:9: 'id' must be a text, and YAML reads 010 as the number 8; write \"010\"",
    ),
    "minutes as id": (
        f"{P}{OK}".replace("ok", "1:30"),
        "5:9: 'id' must be a text, and YAML reads 1:30 as the number 90; write \"1:30\"",
    ),
    "a number as tag": (
        f"{P}{OK}    applies_to: [a, 1_000]\n",
        "7:21: 'applies_to' must be a text, and YAML reads 1_000 as the number 1000; write \"1_000\"",
    ),
    "yes as tag": (
        f"{P}{OK}    applies_to: [yes]\n",
        "7:18: 'applies_to' must be a text, and YAML reads yes as true; write \"yes\"",
    ),
    "null as tag": (
        f"{P}{OK}    applies_to: [null]\n",
        "7:18: 'applies_to' must be a text (got nothing); write a text",
    ),
    "a file name with a NUL": (
        f'{HEAD}extends: ["a\\0b"]\n',
        "4:11: extends 'a\\x00b', but there is no file ",
    ),
    "a file name without end": (f"{HEAD}extends: [{'a' * 5000}]\n", "4:11: extends 'aaa"),
}

FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda path: None,
        "1:1: cannot be read (No such file or directory); give the path of a constitution file",
    ),
    "a folder": (lambda path: path.mkdir(), "1:1: this is a folder; give the path of a constitution file"),
    "a pipe": (lambda path: os.mkfifo(path), "1:1: this is a pipe or a device, not a file; give the path of"),
    "a device": (
        lambda path: path.symlink_to("/dev/zero"),
        "1:1: this is a pipe or a device, not a file; give the path of",
    ),
    "a circle of links": (
        lambda path: path.symlink_to(path),
        "1:1: cannot be read (Too many levels of symbolic links); give",
    ),
    "too long": (
        lambda path: path.write_bytes(b"#" * (MOST_BYTES + 1)),
        "1:1: longer than 10 MB, which no constitution is; ",
    ),
    "UTF-16": (
        lambda path: path.write_text(f"{P}{OK}", encoding="utf-16"),
        "1:1: this is UTF-16; save the file as UTF-8",
    ),
    "Latin-1": (
        lambda path: path.write_bytes(f"{HEAD}# \u00e9\u00e8".encode() + b"\xe9\n"),
        "4:5: byte 0xe9 is not UTF-8; save the file as UTF-8",
    ),
    "a mark of order and a bad byte": (
        lambda path: path.write_bytes(b"\xef\xbb\xbf\x80"),
        "1:1: byte 0x80 is not UTF-8; save the file as UTF-8",
    ),
    "zeros": (
        lambda path: path.write_bytes(bytes(100)),
        "1:1: the character U+0000 cannot stand in YAML; remove it",
    ),
}


def refused_by_all(path: Path, expected: str) -> None:
    """Lint, show and export exit 2 with the same one finding, and so does whatever loads the file."""
    with pytest.raises(ConstitutionError) as error:
        load_constitution(path)
    assert str(error.value).startswith(f"{path}:{expected}") and str(error.value).isprintable()
    told = CliRunner().invoke(app, ["constitution", "lint", str(path)])
    assert (
        told.exit_code == 2
        and told.stdout
        == f"{path}:" + str(error.value)[len(str(path)) + 1 :].replace(": ", ": error: ", 1) + "\n"
    )
    out = path.parent / "out.json"
    for arguments in (["show"], ["show", "--json"], ["export", "--format", "hf", "--output", str(out)]):
        done = CliRunner().invoke(app, ["constitution", arguments[0], str(path), *arguments[1:]])
        assert isinstance(done.exception, ConstitutionError) and str(done.exception) == str(error.value)
        assert done.stdout == "" and not out.exists()


@pytest.mark.parametrize("name", TEXTS)
def test_a_bad_text_is_one_finding(name: str, tmp_path: Path) -> None:
    """With its line and column, whatever is wrong with it; no part of it is used."""
    text, expected = TEXTS[name]
    (tmp_path / "c.yaml").write_bytes(text.encode())
    refused_by_all(tmp_path / "c.yaml", expected)


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_one_finding(name: str, tmp_path: Path) -> None:
    """Nothing waits for a pipe or reads a device."""
    make, expected = FILES[name]
    make(tmp_path / "c.yaml")
    refused_by_all(tmp_path / "c.yaml", expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_forbidden_file_is_one_finding(tmp_path: Path) -> None:
    """As any other that cannot be read."""
    (tmp_path / "c.yaml").touch(mode=0)
    refused_by_all(tmp_path / "c.yaml", "1:1: cannot be read (Permission denied); give the path of")


@pytest.mark.slow
def test_the_commands_end_with_2_and_one_line(tmp_path: Path) -> None:
    """As processes, `run` included: no traceback, and nothing is started."""
    path = tmp_path / "c.yaml"
    path.write_text(TEXTS["billion laughs"][0])
    place = f"{path}:{TEXTS['billion laughs'][1]}"
    assert place in one_line(cai("constitution", "show", str(path)))
    assert place in one_line(cai("run", "flows/configs/embedded.yaml", "--set", f"constitution={path}"))


def test_import_waits_for_no_pipe(tmp_path: Path) -> None:
    """It reads files of other formats, and the same sort of files."""
    os.mkfifo(tmp_path / "c.json")
    arguments = ["constitution", "import", str(tmp_path / "c.json"), "--output", str(tmp_path / "out.yaml")]
    assert "this is a pipe or a device, not a file; give the path of a constitution file" in str(
        CliRunner().invoke(app, arguments).exception
    )


@pytest.mark.slow
def test_many_errors_are_not_all_told(tmp_path: Path) -> None:
    """Of 50,000 errors the first 1,000, and that there are more."""
    path = tmp_path / "c.yaml"
    path.write_text(f"{HEAD}principles: [{'x, ' * 50_000}]\n")
    found = lint(path)
    assert len(found) == MOST_ERRORS + 1 and found[0].message.startswith(
        "this file has more than 1000 errors"
    )


def test_a_chain_of_files_ends(tmp_path: Path) -> None:
    """A hundred files that extend one another are told in the fiftieth."""
    for number in range(100):
        (tmp_path / f"{number}.yaml").write_text(f"{HEAD}extends: [{number + 1}.yaml]\n")
    with pytest.raises(
        ConstitutionError, match=r"49\.yaml:4:11: this is the 50th file that extends another in a row"
    ):
        load_constitution(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    "text",
    [f"\ufeff{P}{OK}", f"{P}{OK}".replace("\n", "\r\n"), f"---\n{P}{OK}...\n", f"%YAML 1.1\n---\n{P}{OK}"],
)
def test_what_editors_and_yaml_allow_is_read(text: str, tmp_path: Path) -> None:
    """A byte order mark, line ends of Windows, the marks of a document."""
    (tmp_path / "c.yaml").write_bytes(text.encode())
    assert [p.id for p in load_constitution(tmp_path / "c.yaml").principles] == ["ok"]


def test_merges_and_aliases_that_end_are_read(tmp_path: Path) -> None:
    """They are YAML, and an error below them is told where it is written."""
    path = tmp_path / "c.yaml"
    base = "  - &base\n    id: ok\n    statement: &s The reply greets the user by name.\n"
    text = f"{P}{base}  - <<: *base\n    id: more\n    judge: *s\n"
    path.write_text(text)
    assert [(p.id, p.judge) for p in load_constitution(path).principles] == [
        ("ok", None), ("more", "The reply greets the user by name."),
    ]  # fmt: skip
    path.write_text(f"{text}    weight: 0\n")
    assert str(lint(path)[0]) == f"{path}:11:13: 'weight' must be above 0 (got 0); raise it"


def test_places_are_those_of_an_editor(tmp_path: Path) -> None:
    """Further line ends that YAML knows, and characters of several bytes, move no finding."""
    path = tmp_path / "c.yaml"
    path.write_text(f'{HEAD}description: "a\u2028b\x85c"\nname: "\U0001f600", x: 1\n', encoding="utf-8")
    assert (lint(path)[0].line, lint(path)[0].column) == (5, 10)
