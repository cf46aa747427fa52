"""Files of rows: whole or absent, the same text back, errors that name the line."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import StoreError
from cai.rows import Drop
from cai.store import RowsWriter, read_rows, remove_abandoned, remove_leftovers, write_json, write_rows

ANY_TEXT = st.text(st.characters(exclude_categories=()))


def drop(detail: str) -> Drop:
    """A row with some free text."""
    return Drop(id="d", stage="s", reason="r", detail=detail)


@given(st.lists(ANY_TEXT, max_size=5))
def test_rows_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Rows come back equal, lone surrogates included, and the digest is that of the file."""
    path = tmp_path_factory.mktemp("s") / "rows.jsonl"
    rows = [drop(text) for text in texts]
    published = write_rows(path, rows)
    assert list(read_rows(path, Drop)) == rows
    assert published.rows == len(rows)
    assert published.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_ordinary_text_is_readable_utf8(tmp_path: Path) -> None:
    """Only a row with a lone surrogate is escaped."""
    write_rows(tmp_path / "rows.jsonl", [drop("žluťoučký"), drop("\ud800ž")])
    first, second = (tmp_path / "rows.jsonl").read_bytes().splitlines()
    assert "žluťoučký".encode() in first
    assert b"\\ud800\\u017e" in second


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    """An error while rows are produced keeps what was published before."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, [drop("old")])

    def broken() -> Iterator[Drop]:
        yield drop("new")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_rows(path, broken())
    assert [row.detail for row in read_rows(path, Drop)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    """Temporary files go; the published file and those of other shards stay."""
    path, other = tmp_path / "rows-00000.jsonl", tmp_path / "rows-00001.jsonl"
    write_rows(path, [drop("old")])
    RowsWriter(path)
    kept = RowsWriter(other)
    remove_leftovers(path)
    kept.publish()
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_what_killed_writers_left_anywhere_is_removed(tmp_path: Path) -> None:
    """By the id of the writer in its name: those of a living process stay, and so do other files."""
    folder = tmp_path / "judge"
    script = f"import os, sys; from cai.store import *; RowsWriter(Path({str(folder)!r}, 'x')); os._exit(0)"
    subprocess.run([sys.executable, "-c", script], check=True)
    living, other = RowsWriter(folder / "y"), folder / ".note.tmp"
    other.touch()
    assert len(list(folder.iterdir())) == 3
    remove_abandoned(tmp_path)
    living.publish()
    assert sorted(folder.iterdir()) == [other, folder / "y"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "Expecting property name"),
        ('{"id":"d"}', "stage: Field required"),
        ('{"id":"d","stage":"s","reason":"r","x":1}', "x: Extra inputs are not permitted"),
        ("\x00\x00", "Expecting value"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    """The error carries file, line number, the row type and what is wrong."""
    path = tmp_path / "rows.jsonl"
    path.write_text(drop("").model_dump_json() + "\n" + line + "\n")
    rows = read_rows(path, Drop)
    assert next(rows) == drop("")
    with pytest.raises(StoreError, match=rf"rows\.jsonl:2: not a Drop row: {problem}"):
        next(rows)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A shard that is not there is a StoreError."""
    with pytest.raises(StoreError, match=r"none\.jsonl: No such file"):
        next(read_rows(tmp_path / "none.jsonl", Drop))


def test_json_is_published_indented(tmp_path: Path) -> None:
    """Plain values and pydantic models both; surrogates survive."""
    write_json(tmp_path / "a.json", {"x": [1, "ž"]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "x": [\n    1,\n    "ž"\n  ]\n}\n'
    write_json(tmp_path / "b.json", drop("\ud800"))
    assert next(read_rows_of_one(tmp_path / "b.json")) == drop("\ud800")


def read_rows_of_one(path: Path) -> Iterator[Drop]:
    """An indented JSON file as rows: only its unindented form is a line."""
    compact = path.with_suffix(".jsonl")
    compact.write_text(path.read_text().replace("\n", "") + "\n")
    return read_rows(compact, Drop)
