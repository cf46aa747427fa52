"""Every reader of files that somebody else may have written, on bad files and on mutations of good ones.

Few mutations here; CAI_FUZZ, an environment variable, sets another number for each reader.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai.config import SourceConfig
from cai.errors import ConfigError, ConstitutionError
from cai.imports import import_text
from cai.rows import Prompt
from cai.sources import read_prompts
from tests.faults.hostile_files import BAD, limited, mutated, outcome
from tests.faults.readers import READERS

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("CAI_FUZZ", "20"))


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_read(name: str, tmp_path: Path) -> None:
    """Else the mutations would be of something that is refused at once."""
    reader = READERS[name]
    path = tmp_path / reader.name
    path.write_bytes(reader.good)
    with limited():
        reader.read(path)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", READERS)
def test_a_bad_file_is_told(name: str, bad: str, tmp_path: Path) -> None:
    """A value or one line; nothing waits for a pipe, reads a device to its end or recurses until Python gives up."""
    reader = READERS[name]
    path = tmp_path / reader.name
    BAD[bad](path)
    outcome(reader, path)


@pytest.mark.parametrize("name", READERS)
def test_any_mutation_is_read_or_told(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A value or one line that names the file, whatever stands where."""
    reader = READERS[name]
    path = tmp_path_factory.mktemp("mutated") / reader.name

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path.write_bytes(data.draw(mutated(reader)))
        outcome(reader, path)

    check()


N = 60_000
FENCE = "~~~\n{}\n~~~\n"
SLOW: dict[str, str] = {  # for readers that look at every end for every beginning
    "brackets": "# T\n\n" + "[" * N,
    "footnotes": "# T\n\n" + "[^" * N,
    "links": "# T\n\n" + "[](" * N,
    "a heading's end": "# a" + "#" * N + "x\n\ntext",
    "a heading's blanks": "# a" + " " * N + "{b} c\n\ntext",
    "a long fence": "~" * N + "\n" + "a\n" * N,
    "comparisons in comparisons": FENCE.format("<user>\nHi\n</user>\n" + "<comparison>\n" * N),
    "a tag's blanks": FENCE.format("<user>" + " " * N + "x"),
    "a mark's blanks": FENCE.format(f"<assistant> <!-- GOOD a{' ' * N}b -->\nx"),
    "a list": "- one\n" * 9000,
}


@pytest.mark.parametrize("name", SLOW)
def test_an_import_takes_time_by_its_length(name: str) -> None:
    """Not by the square of it, and not by a level of the stack for each."""
    with limited(60):
        assert import_text(SLOW[name], "c.md").file.principles


def _preferences(better: int, worse: int, entries: int) -> str:
    one = {"prompt": "\n\nHuman: x", "corrects": ["a"] * better, "incorrects": ["b"] * worse}
    return json.dumps([one] * entries)


MANY: dict[str, tuple[str, str, str]] = {
    "principles": ("- a\n" * 10_001, "c.md", "more than 10,000 principles"),
    "tests of an entry": (_preferences(101, 100, 1), "c.json", "more than 10,000 tests"),
    "tests of entries": (_preferences(1, 1, 10_001), "c.json", "more than 10,000 tests"),
}


@pytest.mark.parametrize("name", MANY)
def test_an_import_is_bounded(name: str) -> None:
    """Few bytes can stand for very many principles or tests."""
    text, file, told = MANY[name]
    with pytest.raises(ConstitutionError, match=told):
        import_text(text, file)


def test_a_packed_line_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unfolds to a line of any length is told; a cell of a megabyte is not too long."""
    monkeypatch.setattr("cai.given.LONGEST_LINE", 1 << 21)
    for name in ("p.jsonl", "p.csv", "p.txt"):
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(b"prompt\n" + b"x" * (1 << 22)))
        with pytest.raises(ConfigError, match=r"line 2 is longer than 2 million characters"):
            list(read_prompts([SourceConfig(path=str(path))]))
    long = tmp_path / "long.csv"
    long.write_text(f"prompt\n{'y' * 1_000_000}\n")
    assert [row for row in read_prompts([SourceConfig(path=str(long))]) if isinstance(row, Prompt)]
