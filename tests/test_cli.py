"""The command line: one line for a mistake, the exit status that scripts rely on, JSON on stdout alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.small_cli import ROOT, run_cai


def cai(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, without any API key around."""
    done = run_cai(*arguments, **environment)
    return subprocess.CompletedProcess(arguments, done.status, done.out, done.err)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a failed command: exactly one line, no traceback."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "none.yaml: no such config file"),
        (["run", "flows/configs/embedded.yaml", "--set", "judge.treshold=1"], "did you mean 'threshold'?"),
        (["run", "flows/configs/embedded.yaml", "--set", "constitution=none.yaml"], "none.yaml"),
        (["run", "flows/configs/embedded.yaml", "--set", "prompts.0.path=none.jsonl"], "none.jsonl"),
        (["run", "flows/configs/embedded.yaml", "--set", "models.tiny.model=./none"], "./none"),
        pytest.param(
            ["run", "flows/configs/hosted.yaml", "--set", "prompts.0.path=cai/embedded/data/generate.jsonl"],
            "_API_KEY",
            marks=pytest.mark.slow,  # a Secret block might have it, so Prefect starts
        ),
        (["status", "outputs/none"], "not a run"),
        (["constitution", "show", "none.yaml"], "none.yaml"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    """The value, the place and the fix, and exit status 2, before anything is started or paid for."""
    assert message in one_line(cai(*arguments))


def test_an_empty_prompt_file(tmp_path: Path) -> None:
    """A prompt file without prompts is a mistake, not an empty run."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    found = one_line(cai("run", "flows/configs/embedded.yaml", "--set", f"prompts.0.path={empty}"))
    assert str(empty) in found


def test_lint(tmp_path: Path) -> None:
    """Good files exit 0; a bad one exits 2 with its place, as text and as JSON."""
    good = sorted(str(path) for path in (ROOT / "constitutions").glob("*.yaml"))
    assert cai("constitution", "lint", *good).returncode == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text('schema: 1\nname: bad\nversion: "1"\nprinciples:\n  - {id: kind, statment: Be kind.}\n')
    done = cai("constitution", "lint", str(bad))
    assert done.returncode == 2
    assert f"{bad}:5:" in done.stdout and "'statement'" in done.stdout
    findings = json.loads(cai("constitution", "lint", "--json", str(bad)).stdout)["findings"]
    assert findings[0]["line"] == 5 and findings[0]["severity"] == "error"


def test_show() -> None:
    """`extends` is resolved; JSON is one object."""
    found = json.loads(cai("constitution", "show", "constitutions/hhh.yaml", "--json").stdout)
    base = json.loads(cai("constitution", "show", "constitutions/harmless.yaml", "--json").stdout)
    ids = {principle["id"] for principle in found["principles"]}
    assert {principle["id"] for principle in base["principles"]} < ids
    assert cai("constitution", "show", "constitutions/toy.yaml").returncode == 0


def test_version_and_help() -> None:
    """Both answer at once."""
    assert cai("--version").stdout.startswith("cai ")
    assert "constitution" in cai("--help").stdout
