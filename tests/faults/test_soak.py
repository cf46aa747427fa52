"""The soak's bookkeeping: a scenario that fails does not end the others, and the page says what was seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import soak
from tests.faults.scene import Result
from tests.faults.soak import BEGIN, END, run, scenarios

GOOD = Result("x", 4, 235, 0, 0, 3, 32, (1.0, 3.0, 2.0))


async def good(folder: Path, seed: int, times: int) -> Result:
    """A scenario that goes well."""
    return GOOD._replace(injected=times)


async def lossy(folder: Path, seed: int, times: int) -> Result:
    """A scenario that loses a row."""
    return GOOD._replace(lost=1)


async def broken(folder: Path, seed: int, times: int) -> Result:
    """A scenario that does not come to a result."""
    raise AssertionError("left running: {7: 'python'}")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soak with these three."""
    found = {"a | bad one": (lossy, 2), "a good one": (good, 4), "a broken one": (broken, 1)}
    monkeypatch.setattr(soak, "scenarios", lambda: found)


@pytest.mark.usefixtures("chosen")
def test_all_are_run_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1 for a row that is lost; the page has a line for each, twice written is written once."""
    page, out = tmp_path / "page.md", tmp_path / "deep" / "soak.json"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    assert [run([], 7, 0.5, out, page) for _ in range(2)] == [1, 1]
    text = page.read_text()
    assert "| a good one | 2 | 235 | 0 | 0 | 3 of at most 32 | 2.0 s | until the run was through |" in text
    assert "| a / bad one | 4 | 235 | 1 |" in text and "| a broken one | failed |" in text
    assert text.startswith(f"# Title\n\n{BEGIN}\n| fault |") and text.endswith(f"\n{END}\n\nThe end.\n")
    assert text.count("a good one") == 1 and "old" not in text and "seed 7" in text
    found = json.loads(out.read_text())["scenarios"]
    assert [bool(one["problem"]) for one in found] == [True, False, True]
    assert found[1]["result"]["recover_s"] == [1.0, 3.0, 2.0]
    assert "left running" in capsys.readouterr().out


@pytest.mark.usefixtures("chosen")
def test_words_choose(tmp_path: Path) -> None:
    """Those that have all words in their name, whose exit status is theirs alone; none is a mistake of the user's."""
    assert run(["GOOD"], 7, 1, tmp_path / "soak.json", None) == 0
    assert run(["good", "bad"], 7, 1, tmp_path / "none.json", None) == 2
    assert not (tmp_path / "none.json").exists()


def test_every_scenario_is_found() -> None:
    """What is killed is there, at least fifty times in all; the page of the docs has the place for the table."""
    kills = {name: times for name, (_, times) in scenarios().items() if name.startswith("kill -9")}
    assert len(kills) >= 5 and sum(kills.values()) >= 50
    page = soak.PAGE.read_text()
    assert page.count(BEGIN) == page.count(END) == 1
