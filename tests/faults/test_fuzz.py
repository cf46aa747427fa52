"""Every reader of files that somebody else may have written, on bad files and on mutations of good ones.

Few mutations here; CAI_FUZZ, an environment variable, sets another number for each reader.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.hostile_files import BAD, READERS, limited, mutated, outcome

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
