"""What a fault may leave behind: no process, and no file that is read as whole and is not."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
from pathlib import Path

MARK = "CAI_FAULT_MARK"  # a variable that all processes of one run inherit
GONE_S = 120.0  # far more than the grace periods of what ends itself, on a busy machine
HIDDEN = ("journal", "logs", "work")  # read line by line, checked by themselves, or by no reader at all


_marks: list[dict[str, str]] = []


def mark() -> dict[str, str]:
    """An environment variable that tells the processes of one run from all others."""
    _marks.append({MARK: secrets.token_hex(8)})
    return _marks[-1]


def clear() -> None:
    """Kill whatever lives of all runs that were marked: for the end of a scenario that failed half-way."""
    while _marks:
        kill(left(_marks.pop()))


def left(environment: dict[str, str], words: str = "") -> list[int]:
    """The processes that live in this environment; `words`: only those with this in their command line."""
    wanted = f"{MARK}={environment[MARK]}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes() and words in command_of(int(process.name)):
                found.append(int(process.name))
        except OSError:
            continue
    return sorted(found)


def command_of(pid: int) -> str:
    """The command line of a process; "" for one that is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pids: list[int]) -> bool:
    """Whether one of these processes runs; a zombie does not."""
    return any(command_of(pid) for pid in pids)


def kill(pids: list[int]) -> None:
    """kill -9, whoever of them is left."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


async def until_gone(environment: dict[str, str]) -> None:
    """Wait until nothing of a run is left; AssertionError, and kill -9, where it does not end by itself."""
    try:
        async with asyncio.timeout(GONE_S):
            while left(environment):  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(0.1)
    except TimeoutError:
        orphans = {pid: command_of(pid)[:200] for pid in left(environment)}
        kill(list(orphans))
        raise AssertionError(f"left running: {orphans}") from None


def check_files(root: Path) -> None:
    """Every file of a run that readers take for whole parses whole."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if path.name.startswith(".") or not set(HIDDEN).isdisjoint(path.relative_to(root).parts):
            continue
        body = path.read_bytes()
        match path.suffix:
            case ".json":
                json.loads(body)
            case ".jsonl":
                assert not body or body.endswith(b"\n"), f"{path} ends in the middle of a line"
                for line in body.splitlines():
                    json.loads(line)
            case ".html":
                assert body.rstrip().endswith(b"</html>"), f"{path} has no end"


def check_end(root: Path) -> None:
    """A run that is through: all its files are whole, it says so, and what killed writers have left is gone."""
    check_files(root)
    assert json.loads((root / "summary.json").read_bytes())["state"] == "finished"
    assert (root / "report.html").is_file()
    leftovers = [path for path in root.rglob(".*") if path.name.endswith(".tmp")]
    assert not leftovers, leftovers
    assert not (root / "progress.json").exists()
