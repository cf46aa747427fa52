"""The tutorial, typed as it stands: its files saved under their titles, its commands and Python run in order.

So is every page of docs/ that shows commands as runnable (`sh`); those about a finished run by test_end_to_end.py.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cai.export.dataset import part_file
from tests.engine import Engine
from tests.small_cli import ROOT, environment

PAGES = ("tutorial.md", "terminal.md")
BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.-]+)\")?\n(.*?)^```", re.M | re.S)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An empty folder but for the parts of the repository that a config names."""
    for name in ("cai", "constitutions", "flows"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def follow(page: str, folder: Path, engine: Engine | None) -> str:
    """Do what a page says; a run asks the shared engine instead of starting one. Returns all that was printed."""
    printed = ""
    for kind, title, text in BLOCK.findall((ROOT / "docs" / page).read_text("utf-8")):
        if title:
            (folder / title).write_text(text)
        commands = text.splitlines() if kind == "sh" else []
        for command in commands:
            words = shlex.split(command)
            if Path(words[0]).name == "cai":
                words[:1] = [sys.executable, "-m", "cai"]
            if words[3:4] == ["run"]:
                assert engine is not None
                words += ["--no-prefect", *engine.options]
            printed += run(words, folder, engine)
        if kind == "python":
            printed += run([sys.executable, "-c", text], folder, None)
    return printed


def run(words: list[str], folder: Path, engine: Engine | None) -> str:
    more = engine.environment if engine else {}
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment(PREFECT_API_URL="", **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_tutorial(checkout: Path, engine: Engine) -> None:
    """From two files of one's own to a dataset, and again after an edit that re-asks what it says it would."""
    printed = follow("tutorial.md", checkout, engine)
    root = checkout / "outputs" / "my-run"
    pairs = part_file(root, "preference").read_text("utf-8").splitlines()
    assert pairs and all({"prompt", "chosen", "rejected", "p"} <= json.loads(pair).keys() for pair in pairs)
    assert re.search(r"^\w.+ \| .+ \| .+ 0\.\d+$", printed, re.M)
    assert "reworded      no-secrets: statement" in printed
    assert "no-secrets" in (root / "edit.json").read_text()
    assert json.loads((root / "summary.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_the_page_on_the_terminal(checkout: Path) -> None:
    """A config for hosted models is written without a key, and the demo's is found to lack nothing."""
    printed = follow("terminal.md", checkout, None)
    assert (checkout / "my-run.yaml").is_file() and "OPENAI_API_KEY" in printed
    assert printed.count("nothing is missing") == 2 and '"missing": 0' in printed


def test_every_page_with_commands_is_followed() -> None:
    """A new page that shows commands as runnable has to say which test runs them."""
    shown = {path.name for path in (ROOT / "docs").glob("*.md") if "\n```sh\n" in path.read_text("utf-8")}
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert {
        name for name in shown - set(PAGES) if f"docs/{name}" not in tests and f'"{name}"' not in tests
    } == set()
