"""Who may import whom (and that starting up stays cheap): read off the code, so that the house keeps its walls."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    "torch",
    "vllm",
    "trl",
    "transformers",
    "datasets",
    "openai",
    "anthropic",
    "prefect",
    "plotly",
    "peft",
}
SDKS = {"openai", "anthropic", "torch", "vllm", "trl", "transformers", "datasets", "aiohttp"}


def imported(file: Path) -> Iterator[str]:
    """Every absolute module name that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("file", files("cai"), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_core_knows_no_flows(file: Path) -> None:
    """`cai` never imports Prefect or the flows."""
    assert not [name for name in imported(file) if name.split(".")[0] in ("prefect", "flows")]


@pytest.mark.parametrize("file", files("cai/stages") + files("cai/judge"), ids=lambda file: file.name)
def test_stages_know_no_sdk_and_no_files(file: Path) -> None:
    """A stage is given an `ask`; it opens no client and no file, and sees of the models only the protocol."""
    names = set(imported(file))
    assert not {name for name in names if name.split(".")[0] in SDKS | {"pathlib", "os", "io"}}
    assert not {name for name in names if name.startswith("cai.models") and name != "cai.models.base"}
    assert not {
        name for name in names if name in ("cai.store", "cai.journal", "cai.shard.run", "cai.pipeline")
    }


def test_the_base_knows_nothing() -> None:
    """Rows and errors import nothing of ours but each other."""
    for name in ("rows.py", "errors.py", "printable.py"):
        ours = {module for module in imported(ROOT / "cai" / name) if module.startswith("cai")}
        assert ours <= {"cai.rows", "cai.errors", "cai.printable"}


@pytest.mark.parametrize("file", files("flows"), ids=lambda file: file.name)
def test_flow_files_are_short(file: Path) -> None:
    """A flow reads top to bottom on a few pages."""
    assert len(file.read_text().splitlines()) <= 150


@pytest.mark.parametrize(
    "statement", ["import cai.cli", "import cai.shard.run, cai.pipeline", "import cai.train.launch"]
)
def test_start_up_is_light(statement: str) -> None:
    """The command line, the runner and the training launcher load none of the heavy libraries."""
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.slow
def test_help_is_fast() -> None:
    """`cai --help` costs little more than what draws it: a fast and a slow machine see the same ratio."""

    def cost(*args: str) -> float:
        code = (
            "import resource, subprocess, sys; "
            "subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL); "
            "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime)"
        )
        run = [sys.executable, "-c", code, *args]
        return float(subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout)

    both = [(cost("-m", "cai", "--help"), cost("-c", "import typer.rich_utils")) for _ in range(4)]
    assert min(ours for ours, _ in both) < 2 * min(drawn for _, drawn in both), both
