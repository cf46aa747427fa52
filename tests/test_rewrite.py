"""`lint --fix`: what is certain is mended in its place, and no other byte of the file changes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cai.cli import app
from cai.constitution import load_constitution
from cai.constitution.document import read_document
from cai.constitution.lint import lint
from cai.constitution.rewrite import apply_mends, find_mends, mend_file
from cai.errors import StoreError

LINES = [  # as it should be, and with a slip
    ("schema: 1", 'schema: "1"'),
    ("name:   test", "nmae:   test"),
    ('version: "1.10"', "version: 1.10"),
    ("description: |", "descripton: |"),
    ("  A text # no comment", None),
    ("", None),
    ("    'of' three lines", None),
    ("principles:", "principels:"),
    ("  -   id: 'one'", None),
    ("      statement: &s >-", "      statment: &s >-"),
    ("         The reply greets", None),
    ("         the user.", None),
    ("      use: [judge]", "      use: judge"),
    ("      judge: *s", None),
    ('      applies_to: ["yes", \'a\',   "0x1F"]', "      aplies_to: [yes, 'a',   0x1F]"),
    ("      weight: 2.5", "      weight: '2.5'"),
    ('  -   {id: "no", "statement": "The reply, it\'s brief: \\"yes\\"."}', None),
    ('  -   {id: "no-2", statement: b, priority:  3}', '  -   {id: "no-2", statment: b, priority:  "3"}'),
    ("  - id: three", None),
    ("    statement: The reply says what it", None),
    ("      does not know.", None),
    ("    examples:", "    exampels:"),
    ("    - {conversation: Hi, reply: Go., critique: c,", None),
    ("       violated: true}", '       violated: "yes"}'),
]
IN_TEXTS = {4, 5, 6, 10, 11, 19, 20, 22, 23}  # where a comment would be part of a text, or end it
notes = st.text(st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="\x85"), max_size=12).map(
    lambda text: "# " + text.strip()
)
layouts = st.tuples(
    st.lists(st.booleans(), min_size=len(LINES), max_size=len(LINES)),
    st.lists(st.none() | notes | st.just(""), min_size=len(LINES), max_size=len(LINES)),
    st.lists(st.none() | notes, min_size=len(LINES), max_size=len(LINES)),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["", "{0}", "{0}{0}# end"]),
)


def kept(path: Path) -> tuple[int, int]:
    """The same as long as a file is not written."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def assembled(
    layout: tuple[list[bool], list[str | None], list[str | None], str, str, str], slips: bool
) -> str:
    """A file of LINES with comments before and behind them, as it should be or with the chosen slips."""
    chosen, before, behind, end, start, tail = layout
    lines = []
    for number, (right, wrong) in enumerate(LINES):
        line = wrong if slips and chosen[number] and wrong is not None else right
        above, after = before[number], behind[number]
        if above is not None and number not in IN_TEXTS:
            lines.append(above)
        if after is not None and not {number, number + 1} & IN_TEXTS:
            line += f"   {after}"
        lines.append(line)
    return start + end.join(lines) + tail.format(end)


@settings(max_examples=25, deadline=None)
@given(layouts)
def test_only_what_is_mended_changes(
    tmp_path_factory: pytest.TempPathFactory,
    layout: tuple[list[bool], list[str | None], list[str | None], str, str, str],
) -> None:
    """Comments, blank lines, quotes, blocks, anchors, line ends: byte for byte; and what is written loads."""
    path = tmp_path_factory.mktemp("fix") / "c.yaml"
    path.write_bytes(assembled(layout, slips=True).encode())
    fixed = mend_file(path)
    right = assembled(layout, slips=False).encode()
    assert path.read_bytes() == right
    assert bool(fixed) == (assembled(layout, slips=True) != assembled(layout, slips=False))
    assert [p.id for p in load_constitution(path).principles] == ["one", "no", "no-2", "three"]
    before = kept(path)
    assert mend_file(path) == [] and kept(path) == before


UNCERTAIN = [
    "schema: 1\nname: t\nversion: ~\n",
    "schema: 2\nname: t\nversion: '1'\n",
    "schema: 1\nname: t\nversion: '1'\nprincipals_list: []\n",
    "schema: 1\nname: t\nversion: '1'\nnames: u\n",  # `name` is there
    "schema: 1\nname: t\nversion: &v 1.10\ndescription: *v\n",
    "schema: 1\nname: t\nversion: !!float 1.10\n",
    "schema: 1\nname: t\nversion: '1'\nprinciples:\n  - {id: a, statement: s, use: 'x'}\n  - {id: B, statement: s}\n",
    "schema: 1\nname: t\nversion: '1'\nprinciples:\n  - id: a\n    statement: s\n    applies_to: a, b\n",
    "schema: 1\nname: t\nversion: '1'\nprinciples:\n  - id: a\n    statement: s\n    weight: '1e3'\n",
    "schema: 1\nname: t\nversion: 1.10\n  bad: [\n",
    "schema: 1\nname: t\nversion: '1'\nprinciples:\n  - {id: a, statement: s}\n",
]


@pytest.mark.parametrize("text", UNCERTAIN, ids=range(len(UNCERTAIN)))
def test_what_is_not_certain_stays(text: str, tmp_path: Path) -> None:
    """Neither mended by guess nor written again."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    before = kept(path)
    fixed = mend_file(path)
    if "'x'" in text:
        assert [one.message for one in fixed] == ["'x' is now ['x']"]
    else:
        assert fixed == [] and kept(path) == before and path.read_text() == text


def test_a_mend_that_reads_otherwise_is_refused(tmp_path: Path) -> None:
    """Nothing is written that is not the old content with its values mended."""
    path = tmp_path / "c.yaml"
    path.write_text("schema: 1\nname: t\nversion: 1.10 # one\n")
    document = read_document(path)
    (mend,) = find_mends(document)
    text = document.read.text
    assert apply_mends(text, [mend]) == text.replace("1.10", '"1.10"')
    assert apply_mends(text, [mend._replace(start=mend.start + 1)]) is None
    assert apply_mends(text, [mend._replace(end=mend.end + 6)]) is None  # would take the comment along
    assert apply_mends(text, [mend._replace(text='"1.10')]) is None


def test_the_command_tells_what_it_fixed(tmp_path: Path) -> None:
    """With its place, before what is left; in text, as JSON, as annotations; permissions and links stay."""
    real, path = tmp_path / "real.yaml", tmp_path / "c.yaml"
    path.symlink_to(real)
    text = "schema: 1\nname: t\nversion: 1.10\nprinciples:\n  - id: Bad\n    statment: The reply greets.\n"
    run = CliRunner()

    def fix(*options: str) -> tuple[int, str]:
        real.write_text(text)
        real.chmod(0o640)
        done = run.invoke(app, ["constitution", "lint", "--fix", str(path), *options])
        return done.exit_code, done.stdout

    left = f"{path}:5:9: error: id 'Bad' is not kebab-case; write it like 'bad'\n"
    assert fix() == (
        2,
        f'{path}:3:10: fixed: 1.10 is now "1.10"\n{path}:6:5: fixed: statment is now statement\n{left}',
    )
    assert path.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert "1.10" in real.read_text() and {p.name for p in tmp_path.iterdir()} == {"real.yaml", "c.yaml"}
    told = json.loads(fix("--json")[1])
    assert told["fixed"][1] == {
        "file": str(path), "line": 6, "column": 5, "message": "statment is now statement"
    }  # fmt: skip
    assert len(told["findings"]) == 1
    assert f'::notice file={path},line=3,col=10::fixed: 1.10 is now "1.10"\n' in fix("--format", "github")[1]


def test_a_file_that_is_saved_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The editor's version wins, and the command says so."""
    path = tmp_path / "c.yaml"
    path.write_text("schema: 1\nname: t\nversion: 1.10\n")

    def saving(text: str, mends: object) -> str | None:
        path.write_text("mine")
        return apply_mends(text, mends)  # type: ignore[arg-type]

    monkeypatch.setattr("cai.constitution.rewrite.apply_mends", saving)
    with pytest.raises(StoreError, match="was changed while it was mended; run the command again"):
        mend_file(path)
    assert path.read_text() == "mine"


def test_shipped_files_need_no_mending() -> None:
    """And are not touched."""
    for path in (Path(__file__).parent.parent / "constitutions").glob("*.yaml"):
        before = kept(path)
        assert mend_file(path) == [] and kept(path) == before and lint(path) == []


def test_one_uncertain_mend_does_not_keep_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be verified is left out, and reported as the error that it is."""
    path = tmp_path / "c.yaml"
    slips = "  - {id: a, statement: s, weight: '1', priority: '2', use: judge}\n  - {id: no, statement: s}\n"
    path.write_text(f"schema: 1\nname: t\nversion: 1.10\nprinciples:\n{slips}")
    monkeypatch.setattr(
        "cai.constitution.rewrite.apply_mends",
        lambda text, mends: None if any("[" in mend.text for mend in mends) else apply_mends(text, mends),
    )
    assert len(mend_file(path)) == 4
    assert [finding.message.split(";")[0] for finding in lint(path)] == ["'use' must be a list (got 'judge')"]
