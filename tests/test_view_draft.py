"""Drafts: one value changed and everything else as it was, the original untouched, errors as everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import Constitution, load_constitution
from cai.errors import ConfigError, ConstitutionError
from cai.view.draft import (
    Draft,
    difference,
    draft_names,
    open_draft,
    principle_text,
    reworded,
    rewritten,
    save_draft,
    shown_text,
)
from cai.view.draft_text import WORDINGS, entry_text, with_entry, with_principle, with_wordings
from tests.small_cli import ROOT

HERE = Path("small.yaml")
BLOCK = """\
schema: 1 # the format
name: small
version: "1"
extends: []
principles:

  # about kindness
  - id: kind
    statement: >-
      Be kind
      to all.

    # of judges
    judge: 'Kinder is better.' # really
  - {id: honest, statement: Be honest., critique: Look for lies.}   # in brackets

# the end
"""
FLOW = (
    '{"schema": 1, "name": "small", "version": "1", "principles": [{"id": "kind", "statement": "Be kind."}]}'
)
COMMENTS = ("# the format", "# about kindness", "# of judges", "# in brackets", "# the end")
SHIPPED = sorted((ROOT / "constitutions").glob("*.yaml"))
wording = st.text(min_size=1, max_size=40).filter(lambda text: text.strip()) | st.sampled_from(
    [
        "no",
        "1.10",
        "a: b",
        "# c",
        "two\nlines",
        "- x",
        "{x}",
        "*a",
        "&a b",
        "'",
        '"',
        "|",
        "> x",
        "a\n\n  b",
        "a\tb",
        "x" * 300,
    ]
)


def data(text: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(text)
    return found


@given(st.sampled_from(WORDINGS), st.sampled_from([0, 1]), st.one_of(st.none(), wording))
def test_one_wording_changes_and_nothing_else(name: str, number: int, value: str | None) -> None:
    """Whatever is written, it reads back, the rest reads as it did, and every comment stands where it stood."""
    value = value.strip() if value is not None and name != "statement" else (value or "x").strip()
    try:
        changed = with_wordings(HERE, BLOCK, number, {name: value})
    except ConstitutionError as error:
        assert value is None or not all(c.isprintable() or c == "\n" for c in value), error
        return
    expected = yaml.safe_load(BLOCK)
    if expected["principles"][number].get(name) != value:
        expected["principles"][number][name] = value
    assert data(changed) == expected
    assert all(changed.count(comment) == 1 for comment in COMMENTS)
    before, after = BLOCK.splitlines(), changed.splitlines()
    assert [line for line in before if line not in after] == [
        line
        for line in before
        if line not in after and any(key in line for key in (*WORDINGS, "Be kind", "to all."))
    ]


@pytest.mark.parametrize("text", [BLOCK, FLOW, BLOCK.replace("\n", "\r\n")], ids=["block", "flow", "crlf"])
def test_every_way_to_write_a_file_is_followed(text: str) -> None:
    """In blocks, in brackets, with other line ends: wordings are replaced, added, and taken away again."""
    wanted = {
        "statement": "Be mild: always.",
        "critique": "One.\nTwo.",
        "revision": "Mend it.",
        "judge": None,
    }
    changed = with_wordings(HERE, text, 0, wanted)
    own = data(changed)["principles"][0]  # type: ignore[index]
    assert {name: own.get(name) for name in WORDINGS} == wanted
    more = with_principle(HERE, changed, {"id": "brief", "statement": "Be brief.", "weight": 2.0})
    assert data(more)["principles"][-1] == {"id": "brief", "statement": "Be brief.", "weight": 2.0}  # type: ignore[index]
    assert [one in changed for one in COMMENTS] == [one in text for one in COMMENTS]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_principle_that_ships_can_be_cut_out_and_put_back(path: Path) -> None:
    """Byte for byte, and the YAML that is shown is that principle's alone."""
    text = path.read_text()
    for number, principle in enumerate(data(text).get("principles", ())):  # type: ignore[var-annotated, arg-type]
        if number % 4:
            continue
        entry = entry_text(path, text, number)
        assert entry is not None and yaml.safe_load(entry) == principle
        if number == 0:
            assert with_entry(path, text, number, entry) == text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("id: other\nstatement: x", "must stay the one principle 'kind'"),
        ("id: kind", "the key 'statement' is missing"),
        ("id: kind\nstatement: x\n- id: b", "small.yaml:"),
        ("id: kind\nstatment: x", "did you mean 'statement'?"),
        ("id: kind\nstatement: [", "not valid YAML"),
        ("id: kind\nstatement: x\nweight: -1", "small.yaml:"),
        ("", "small.yaml:"),
    ],
)
def test_a_wrong_entry_is_one_line_with_its_place(entry: str, message: str) -> None:
    """As for any constitution: file, line, column, what and the fix."""
    with pytest.raises(ConstitutionError) as caught:
        with_entry(HERE, BLOCK, 0, entry)
    told = str(caught.value)
    assert message in told and told.startswith("small.yaml:") and "\n" not in told


def opened(folder: Path, text: str, name: str = "mine") -> Draft:
    file = folder / "own.yaml"
    if not file.exists():
        file.write_text(text)
    return open_draft(folder / "run", str(file), load_constitution(file), name)


def test_a_draft_is_a_file_of_its_own(tmp_path: Path) -> None:
    """The original keeps every byte; the draft has the change, goes on from itself, and tells its difference."""
    draft = opened(tmp_path, BLOCK)
    assert not draft.saved and draft_names(tmp_path / "run") == []
    findings = save_draft(draft, reworded(draft, "kind", {"judge": "Milder is better.\r\n"}))
    assert [one for one in findings if one.severity == "error"] == []
    again = opened(tmp_path, BLOCK)
    assert again.saved and draft_names(tmp_path / "run") == ["mine"]
    save_draft(again, reworded(again, "honest", {"statement": "Never lie."}))
    assert (tmp_path / "own.yaml").read_text() == BLOCK
    kept = load_constitution(tmp_path / "run" / "drafts" / "mine.yaml")
    assert [one.statement for one in kept.principles] == ["Be kind to all.", "Never lie."]
    lines = difference(opened(tmp_path, BLOCK))
    changed = {kind: [line for one, line in lines if one == kind] for kind in ("old", "new")}
    assert len(changed["old"]) == len(changed["new"]) == 2
    assert changed["new"][0] == "+    judge: Milder is better. # really"


def test_an_inherited_principle_is_written_into_the_draft(tmp_path: Path) -> None:
    """A draft of a file that extends others works where it lies, and goes back into the place of the original."""
    (tmp_path / "base.yaml").write_text(BLOCK)
    child = 'schema: 1\nname: child\nversion: "2"\n# from here\nextends: [base.yaml]\n'
    draft = opened(tmp_path, child)
    save_draft(draft, reworded(draft, "honest", {"critique": "Look for half-truths."}))
    kept = opened(tmp_path, child)
    found = {one.id: one for one in load_constitution(kept.path).principles}
    assert (
        found["honest"].critique == "Look for half-truths." and found["kind"].statement == "Be kind to all."
    )
    assert "../../base.yaml" in kept.text and "../../" not in shown_text(kept)
    assert [line for kind, line in difference(kept) if kind == "old"] == []
    (tmp_path / "own.yaml").write_text(shown_text(kept))
    assert load_constitution(tmp_path / "own.yaml") == load_constitution(kept.path)
    assert (principle_text(kept, "kind"), bool(principle_text(kept, "honest"))) == (None, True)


def test_without_the_original_a_draft_begins_with_what_the_run_kept(tmp_path: Path) -> None:
    """A run that was copied to another machine can be drafted from as well."""
    (tmp_path / "own.yaml").write_text(BLOCK)
    constitution: Constitution = load_constitution(tmp_path / "own.yaml")
    draft = open_draft(tmp_path / "run", "gone.yaml", constitution, "mine")
    save_draft(draft, rewritten(draft, "kind", "id: kind\nstatement: Be mild.\nweight: 2"))
    kept = load_constitution(draft.path)
    assert kept.principles[0].weight == 2 and kept.principles[1] == constitution.principles[1]
    assert draft_names(tmp_path / "run") == ["mine"]


@pytest.mark.parametrize(
    "name", ["../own", "a/b", "", ".run", "a--b", "A", "a" * 61, "a\x00", "own.yaml", "-a"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is read or written."""
    with pytest.raises(ConfigError, match="draft "):
        opened(tmp_path, BLOCK, name)


def test_an_unknown_principle_and_a_broken_original_are_told(tmp_path: Path) -> None:
    """With the nearest known one, and with the place in the file."""
    with pytest.raises(ConfigError, match="did you mean 'kind'"):
        reworded(opened(tmp_path, BLOCK), "kimd", {})
    constitution = load_constitution(tmp_path / "own.yaml")
    (tmp_path / "own.yaml").write_text(BLOCK.replace("name: small", "nam: small"))
    with pytest.raises(ConstitutionError, match=r"own.yaml:2:1: .*did you mean 'name'"):
        open_draft(tmp_path / "run", str(tmp_path / "own.yaml"), constitution, "mine")
