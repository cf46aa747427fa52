"""Shell completion: what Tab offers, and that pressing it loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from cai.cli.completion import complete_config, complete_run
from cai.cli.deploy import FLOWS as DEPLOYED
from cai.cli.export import FORMATS
from cai.export.formats import FormatName
from flows.wanted import FLOWS
from tests.small_cli import ROOT, environment
from tests.test_imports import HEAVY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two runs, one of them a level further down, and what is no run."""
    for name in ("demo", "more/deep", "empty"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    for name in ("demo", "more/deep"):
        (tmp_path / "outputs" / name / "config.json").touch()
    (tmp_path / "configs").mkdir()
    for name in ("mine.yaml", "notes.txt", "configs/other.yml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["outputs/demo", "outputs/more"]),
        ("outputs/d", ["outputs/demo"]),
        ("outputs/more/", ["outputs/more/deep"]),
        ("out", ["outputs"]),
        ("none/", []),
    ],
)
def test_runs(typed: str, offered: list[str], folder: Path) -> None:
    """Folders with a run in them, and those on the way there."""
    assert complete_run(typed) == offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["configs/", "mine.yaml", "outputs/"]),
        ("m", ["mine.yaml"]),
        ("configs/", ["configs/other.yml"]),
        ("x/", []),
    ],
)
def test_configs(typed: str, offered: list[str], folder: Path) -> None:
    """YAML files, and folders."""
    assert complete_config(typed) == offered


def test_fixed_values() -> None:
    """Are those that there are."""
    assert set(get_args(FormatName)) == set(FORMATS)
    assert set(DEPLOYED) == set(FLOWS)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("cai status outputs/d", "outputs/demo"),
        ("cai init x.yaml --policy an", "anthropic"),
        ("cai deploy mine.yaml --flow eva", "evaluate"),
        ("cai export outputs/demo --format llama", "llama-factory"),
        ("cai doct", "doctor"),
    ],
)
def test_tab(words: str, offered: str, folder: Path) -> None:
    """Through the way that shells take, in a process that loads none of the heavy libraries."""
    code = "import sys, atexit; from cai.cli import main; sys.argv = ['cai']\n"
    code += "atexit.register(lambda: print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)); main()"
    shell = {"_CAI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**environment(PYTHONPATH=str(ROOT)), **shell},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [offered], done.stderr
    assert not HEAVY & set(done.stderr.split())
