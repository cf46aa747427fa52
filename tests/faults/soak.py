"""The soak: every fault scenario with many injections, and the table of docs/reliability.md made of what they saw."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from cai.report.tables import plain
from cai.runfolder.hold import installed
from tests.faults.after import clear
from tests.faults.scene import Result, Scenario, check

MODULES = (
    "kill",
    "kill_engine",
    "kill_training",
    "kill_worker",
    "provider",
    "host",
    "budget",
    "hostile_text",
)
LIMIT_S = 1800.0  # for one scenario
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- made by make soak: begin -->", "<!-- made by make soak: end -->"
HEADINGS = (
    "fault", "injected", "rows", "lost", "doubled", "calls repeated", "time to recover, median", "measured",
)  # fmt: skip


class Outcome(NamedTuple):
    """What came of one scenario: its result, or the problem that ended it. `seconds`: that it took."""

    name: str
    result: Result | None
    problem: str
    seconds: float


def scenarios() -> dict[str, tuple[Scenario, int]]:
    """All scenarios by what they inject, with how many times the soak does it."""
    found: dict[str, tuple[Scenario, int]] = {}
    for name in MODULES:
        if importlib.util.find_spec(module := f"tests.faults.{name}") is not None:
            found |= importlib.import_module(module).SCENARIOS
    return found


async def soak(
    chosen: Mapping[str, tuple[Scenario, int]], seed: int, factor: float, console: Console
) -> list[Outcome]:
    """Run the scenarios one after the other; one that fails does not end the others."""
    outcomes = []
    for name, (scenario, times) in chosen.items():
        times = max(1, round(times * factor))
        console.print(f"{plain(name)}: {times} times …", highlight=False)
        outcomes.append(await _one(name, scenario, seed, times))
        console.print(f"  {plain(_told(outcomes[-1]))}", highlight=False, soft_wrap=True)
    return outcomes


async def _one(name: str, scenario: Scenario, seed: int, times: int) -> Outcome:
    started = time.monotonic()
    result, problem = None, ""
    with tempfile.TemporaryDirectory(prefix="cai-soak-") as folder:
        try:
            async with asyncio.timeout(LIMIT_S):
                result = await scenario(Path(folder), seed, times)
            check(result)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"[:2000]
        finally:
            clear()
    return Outcome(name, result, problem, time.monotonic() - started)


def _told(outcome: Outcome) -> str:
    state = f"FAILED, {outcome.problem}" if outcome.problem else "ok"
    return f"{state} ({outcome.seconds:.0f} s)"


def row_of(outcome: Outcome) -> tuple[str, ...]:
    """The line of the table for one scenario."""
    result = outcome.result
    if result is None:
        return (outcome.name, *["failed"] * (len(HEADINGS) - 1))
    repeated = f"{result.repeated} of at most {result.most}" if result.most else "–"
    return (
        outcome.name, f"{result.injected}", f"{result.rows}", f"{result.lost}", f"{result.doubled}", repeated,
        f"{result.median_s:.1f} s" if result.recover_s else "", result.recovery if result.recover_s else "",
    )  # fmt: skip


def foot(seed: int, now: datetime) -> str:
    """When, with what and on what the table was made."""
    versions = ", ".join(f"{name} {version}" for name, version in installed().items())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"
    return f"Made {now:%Y-%m-%d} by `make soak`, seed {seed}, on {machine}; {versions}."


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """The table in the terminal."""
    table = Table(*HEADINGS[:-1])
    for outcome in outcomes:
        table.add_row(*map(plain, row_of(outcome)[:-1]), style="red" if outcome.problem else "")
    console.print(table)


def write_page(outcomes: Sequence[Outcome], page: Path, note: str) -> None:
    """Put the table between the two marks of the page, in the place of an earlier one."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *map(row_of, outcomes)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{table}\n\n{note}\n{END}{after}", encoding="utf-8")


def as_json(outcomes: Sequence[Outcome], seed: int, note: str) -> dict[str, Any]:
    """Everything that the soak saw, for programs."""
    found = [
        {
            "name": outcome.name,
            "problem": outcome.problem,
            "seconds": round(outcome.seconds, 1),
            "result": outcome.result and outcome.result._asdict(),
        }
        for outcome in outcomes
    ]
    return {"seed": seed, "note": note, "scenarios": found}


def run(words: Sequence[str], seed: int, factor: float, out: Path, page: Path | None) -> int:
    """Run what has all `words` in its name, and write what came of it; 1 where a scenario failed, 2 for no scenario."""
    console = Console()
    chosen = {
        name: one for name, one in scenarios().items() if all(word.lower() in name.lower() for word in words)
    }
    if not chosen:
        console.print("no scenario has these words in its name; see --list")
        return 2
    outcomes = asyncio.run(soak(chosen, seed, factor, console))
    note = foot(seed, datetime.now(UTC))
    show(outcomes, console)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(as_json(outcomes, seed, note), indent=2) + "\n", encoding="utf-8")
    if page is not None:
        write_page(outcomes, page, note)
    return 1 if any(outcome.problem for outcome in outcomes) else 0
