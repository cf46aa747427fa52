"""What a machine does to a run: disks that fill up, turn read-only or lose pages, files that somebody deletes, clocks
that jump, machines that sleep, a second run beside the first.

After each fault the run has stopped with one line, or went on; then the same command goes on from there. In the end all
rows have the bytes of an undisturbed run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cai.conduct.pipeline import pipeline
from cai.conduct.work import HERE
from cai.config import RunConfig
from cai.config_file import load_config
from cai.errors import CaiError
from cai.journal_lines import lines
from tests.faults.kill import Tally, Whole, with_prefect
from tests.faults.room import Room
from tests.faults.scene import LIMIT, Result, Scenario, ended, until_calls, write_config
from tests.flows.small import obliging
from tests.wire import Wire, wire_server

DELAY_S = 0.03
STOPPED_S = 60.0  # far more than a clean stop takes, on a busy machine
PAGE = 4096
SPENT = "spent.bin"
ROOT = Path(__file__).parents[2]
AGAIN = "from running it again until it is through"
Process = subprocess.Popen[bytes]


def begin(config: Path, inside: Sequence[str] = (), **more: str) -> Process:
    """`cai run CONFIG --no-prefect`; `inside`: what the command begins with, in a room."""
    path = os.pathsep.join(part for part in (more.pop("PYTHONPATH", ""), str(ROOT)) if part)
    return subprocess.Popen(
        [*inside, sys.executable, "-m", "cai", "run", str(config), "--no-prefect"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "120", "PYTHONPATH": path, **more},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


async def undisturbed(folder: Path, server: Wire) -> Whole:
    """The run that all others are compared with, in this process."""
    before, started = server.calls, time.monotonic()
    root = await here(load_config(str(write_config(folder, server.openai_url)), []))
    return Whole(root, server.calls - before, time.monotonic() - started)


async def here(config: RunConfig) -> Path:
    """A run in this process; returns its folder."""
    await pipeline(config, HERE)
    return config.root


async def stopped(process: Process, *words: str) -> bool:
    """Wait for a run that has to stop: True with exit status 1 and one line that says all `words`; False if through."""
    _, errors = await ended(process, STOPPED_S)
    if process.returncode == 0:
        return False
    told = [line for line in errors.splitlines() if line.startswith(("error:", "resume with:"))]
    assert process.returncode == 1 and len(told) == 2 and "Traceback" not in errors, errors
    assert all(word in told[0] for word in words), told
    return True


async def on_the_way(server: Wire, whole: Whole, process: Process, rng: random.Random) -> None:
    """Wait for a moment of a run: some number of calls, from the first to nearly the last."""
    wanted = server.calls + rng.randrange(1, whole.calls - LIMIT)
    assert await until_calls(server, process, wanted), await ended(process)


async def again(process: Process, tally: Tally) -> None:
    """A run that has to come through, timed."""
    started = time.monotonic()
    _, errors = await ended(process)
    assert process.returncode == 0, errors
    tally.seconds.append(time.monotonic() - started)


async def disk_full(folder: Path, seed: int, times: int) -> Result:
    """A real disk that has a few pages left, or none, from some call on.

    Repeated are the calls in flight, whose replies nothing can keep, and those of other shards that took their places
    before they heard of it.
    """

    def fill(room: Room, rng: random.Random) -> None:
        room.leave(PAGE * rng.randrange(8))

    return await _in_rooms(
        folder, seed, times, "disk full during the run", fill, "No space left on device", "free some"
    )


async def disk_read_only(folder: Path, seed: int, times: int) -> Result:
    """A disk that nothing can be created on any more from some call on."""
    words = ("Read-only file system", "mount it for writing")
    return await _in_rooms(folder, seed, times, "disk turns read-only", lambda room, _: room.lock(), *words)


async def _in_rooms(
    folder: Path, seed: int, times: int, fault: str, spoil: Callable[[Room, random.Random], None], *words: str
) -> Result:
    rng, tally = random.Random(seed), Tally()
    async with wire_server(reply=obliging, delay_s=DELAY_S) as server:
        whole = await undisturbed(folder / "whole", server)
        while tally.kills < times:
            with Room(folder / f"disk-{tally.kills}") as room:
                config = write_config(
                    folder / f"run-{tally.kills}", server.openai_url, outputs=str(room.folder / "outputs")
                )
                before = server.calls
                process = begin(config, room.inside)
                await on_the_way(server, whole, process, rng)
                spoil(room, rng)
                assert await stopped(process, str(room.folder), *words)
                room.restore()
                await again(begin(config, room.inside), tally)
                tally.kills += 1
                tally.compare(whole, room.seen / "outputs" / "small", server.calls - before)
    return tally.result(fault, AGAIN)._replace(most=2 * LIMIT * tally.kills)


async def journals_deleted(folder: Path, seed: int, times: int) -> Result:
    """All journals of a run deleted while it writes to them: what is in them must not be lost with them."""

    def delete(root: Path) -> None:
        for journal in (root / "journal").rglob("*.jsonl"):
            journal.unlink()

    return await _deleted(folder, seed, times, "open journals deleted", delete, LIMIT)


async def run_deleted(folder: Path, seed: int, times: int) -> Result:
    """The whole folder of a run deleted while it goes on: what was finished is asked again, what was open is not."""

    def delete(root: Path) -> None:
        while root.exists():
            shutil.rmtree(root, ignore_errors=True)

    return await _deleted(folder, seed, times, "the run's folder deleted during the run", delete, None)


async def _deleted(
    folder: Path, seed: int, times: int, fault: str, delete: Callable[[Path], None], most: int | None
) -> Result:
    rng, tally = random.Random(seed), Tally()
    allowed = 0
    async with wire_server(reply=obliging, delay_s=DELAY_S) as server:
        whole = await undisturbed(folder / "whole", server)
        while tally.kills < times:
            config = write_config(folder / f"run-{tally.kills}", server.openai_url)
            root, before = config.parent / "outputs" / "small", server.calls
            process = begin(config)
            await on_the_way(server, whole, process, rng)
            delete(root)
            allowed += server.calls - before + LIMIT if most is None else most
            await stopped(process, str(root))
            await again(begin(config), tally)
            tally.kills += 1
            tally.compare(whole, root, server.calls - before)
    return tally.result(fault, AGAIN)._replace(most=allowed)


async def files_lost(folder: Path, seed: int, times: int) -> Result:
    """Any one file of a finished run deleted; running it again makes it again and asks nothing."""
    return await _files(
        folder, seed, times, "a file of a finished run deleted", lambda path, _: path.unlink()
    )


async def files_damaged(folder: Path, seed: int, times: int) -> Result:
    """Any one file of a finished run damaged; running it again makes it again and asks nothing.

    But for the counters of the budget: money is not guessed, so the run stops and says to move the file away.
    """

    def spoil(path: Path, rng: random.Random) -> None:
        if path.name == SPENT:
            path.unlink()
            return
        path.write_bytes(damaged(path.read_bytes(), rng))

    return await _files(folder, seed, times, "a file of a finished run damaged", spoil)


async def _files(
    folder: Path, seed: int, times: int, fault: str, spoil: Callable[[Path, random.Random], None]
) -> Result:
    rng, tally = random.Random(seed), Tally()
    async with wire_server(reply=obliging) as server:
        whole = await undisturbed(folder / "whole", server)
        config = load_config(str(write_config(folder / "run", server.openai_url)), [])
        root = await here(config)
        whole_files = folder / "files"
        shutil.copytree(root, whole_files, symlinks=True)
        names = [
            path.relative_to(root)
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.stat().st_size and path.suffix != ".lock"
        ]
        order = rng.sample(names, len(names))
        while tally.kills < times:
            shutil.rmtree(root)
            shutil.copytree(whole_files, root, symlinks=True)
            before, started = server.calls, time.monotonic()
            path = root / order[tally.kills % len(order)]
            spoil(path, rng)
            try:
                await here(config)
            except CaiError as error:
                raise AssertionError(f"{path}: {error}") from error
            tally.kills += 1
            tally.seconds.append(time.monotonic() - started)
            tally.compare(whole, root, whole.calls + server.calls - before)
    return tally.result(fault, AGAIN)._replace(most=0)


async def journal_damaged(folder: Path, seed: int, times: int) -> Result:
    """A page of a journal damaged, and the rows that were made from it gone: only what was hit is asked again."""
    rng, tally, hit = random.Random(seed), Tally(), 0
    async with wire_server(reply=obliging) as server:
        whole = await undisturbed(folder / "whole", server)
        config = load_config(str(write_config(folder / "run", server.openai_url)), [])
        root = await here(config)
        journals = sorted((root / "journal").rglob("*.jsonl"))
        while tally.kills < times:
            before, started = server.calls, time.monotonic()
            journal = rng.choice(journals)
            held = intact(journal)
            journal.write_bytes(damaged(journal.read_bytes(), rng))
            hit += len(held - intact(journal))
            (root / journal.parent.name / f"manifest-{journal.stem}.json").unlink()
            await here(config)
            tally.kills += 1
            tally.seconds.append(time.monotonic() - started)
            tally.compare(whole, root, whole.calls + server.calls - before)
    return tally.result("a journal page damaged", AGAIN)._replace(most=hit)


def intact(journal: Path) -> set[bytes]:
    """The lines of a journal that can be read."""
    with journal.open("rb") as file:
        return {line for _, line, whole in lines(file) if whole}


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """The bytes of a file after something that disks and power cuts do to them; never the same bytes."""
    place = rng.randrange(len(whole))
    start = min(rng.randrange(len(whole) // 512 + 1) * 512, max(len(whole) - 512, 0))
    page = whole[start : start + 512]
    newline = whole.rfind(b"\n", 0, place)
    return rng.choice(
        [
            whole[:start] + bytes(len(page)) + whole[start + len(page) :],
            whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :],
            whole[:place],
            whole[:newline] + whole[newline + 1 :] if newline > 0 else b"",
            whole[:place] + bytes(PAGE),
        ]
    )


async def machine_sleeps(folder: Path, seed: int, times: int) -> Result:
    """The run's process stopped for longer than its calls may take, and woken up again."""
    rng, tally = random.Random(seed), Tally()
    async with wire_server(reply=obliging, delay_s=DELAY_S) as server:
        whole = await undisturbed(folder / "whole", server)
        while tally.kills < times:
            config = _impatient(folder / f"run-{tally.kills}", server)
            before = server.calls
            process = begin(config)
            await on_the_way(server, whole, process, rng)
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(3)
            process.send_signal(signal.SIGCONT)
            await again(process, tally)
            tally.kills += 1
            tally.compare(whole, config.parent / "outputs" / "small", server.calls - before)
    slept = "the machine sleeps for 3 s, longer than the timeout"
    result = tally.result(slept, "from waking up until the run was through")
    return result._replace(most=(LIMIT + 1) * tally.kills)  # and one that asks whether the endpoint is back


def _impatient(folder: Path, server: Wire) -> Path:
    model = {"backend": "vllm", "model": "toy", "endpoint": server.openai_url, "max_concurrency": LIMIT}
    return write_config(
        folder, server.openai_url, models={"toy": {**model, "timeout_s": 2, "deadline_s": 120}}
    )


CLOCK = """\
import os, time
_time, _start, _after, _jump = time.time, time.monotonic(), float(os.environ["AFTER"]), float(os.environ["JUMP"])
time.time = lambda: _time() + (_jump if time.monotonic() - _start > _after else 0)
"""


async def clock_jumps(folder: Path, seed: int, times: int) -> Result:
    """The wall clock set forward or back by up to a week while a run goes on."""
    rng, tally = random.Random(seed), Tally()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(CLOCK)
    async with wire_server(reply=obliging, delay_s=DELAY_S) as server:
        whole = await undisturbed(folder / "whole", server)
        while tally.kills < times:
            config = write_config(folder / f"run-{tally.kills}", server.openai_url)
            before, jump = server.calls, rng.choice([-1, 1]) * rng.randrange(3600, 7 * 86400)
            await again(
                begin(config, PYTHONPATH=str(folder), AFTER=str(1 + 3 * rng.random()), JUMP=str(jump)), tally
            )
            tally.kills += 1
            tally.compare(whole, config.parent / "outputs" / "small", server.calls - before)
    return tally.result("the clock jumps by hours or days", "of the whole run")._replace(most=0)


async def two_runs(folder: Path, seed: int, times: int) -> Result:
    """A second run of the same folder, by another name of it, sometimes with the lock file deleted before."""
    rng, tally = random.Random(seed), Tally()
    async with wire_server(reply=obliging, delay_s=DELAY_S) as server, wire_server(reply=obliging) as other:
        whole = await undisturbed(folder / "whole", server)
        while tally.kills < times:
            config = write_config(folder / f"run-{tally.kills}", server.openai_url)
            link = folder / f"link-{tally.kills}"
            link.symlink_to(config.parent / "outputs")
            second = write_config(folder / f"second-{tally.kills}", other.openai_url, outputs=str(link))
            before = server.calls
            process = begin(config)
            await on_the_way(server, whole, process, rng)
            holder = f"pid {process.pid} on {os.uname().nodename}"
            if tally.kills % 2:
                (config.parent / "outputs" / "small" / "run.lock").unlink()
                holder = "whose lock file was deleted"
            started = time.monotonic()
            assert await stopped(begin(second), f"{link}/small is in use by another run", holder)
            assert other.calls == 0
            tally.seconds.append(time.monotonic() - started)
            _, errors = await ended(process)
            assert process.returncode == 0, errors
            tally.kills += 1
            tally.compare(whole, config.parent / "outputs" / "small", server.calls - before)
    return tally.result("a second run of the same folder", "until it was refused")._replace(most=0)


async def told_to_stop(folder: Path, seed: int, times: int) -> Result:
    """Ctrl-C, SIGTERM or a closed terminal, once or again and again, from the first call to nearly the last."""
    return await _told_to_stop(folder, seed, times, "Ctrl-C, SIGTERM or a closed terminal", begin)


async def prefect_told_to_stop(folder: Path, seed: int, times: int) -> Result:
    """The same for a run under Prefect, which has its own ideas about signals."""
    fault = "Ctrl-C, SIGTERM or a closed terminal, under Prefect"
    return await _told_to_stop(folder, seed, times, fault, lambda config: with_prefect(config, {}))


async def _told_to_stop(
    folder: Path, seed: int, times: int, fault: str, begin: Callable[[Path], Process]
) -> Result:
    rng, tally = random.Random(seed), Tally()
    async with wire_server(reply=obliging, delay_s=DELAY_S) as server:
        whole = await undisturbed(folder / "whole", server)
        while tally.kills < times:
            config = write_config(folder / f"run-{tally.kills}", server.openai_url)
            before = server.calls
            process = begin(config)
            await on_the_way(server, whole, process, rng)
            sent = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            for _ in range(rng.choice([1, 1, 5])):
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(sent)
                await asyncio.sleep(0.03)
            out, errors = await ended(process, STOPPED_S)
            assert process.returncode == 130 and "Traceback" not in errors, (sent, process.returncode, errors)
            assert "interrupted; every finished call is kept, resume with: cai run" in errors
            assert "kept " in out and " calls, " in out, out
            await again(begin(config), tally)
            tally.kills += 1
            tally.compare(whole, config.parent / "outputs" / "small", server.calls - before)
    return tally.result(fault, AGAIN)


SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "disk full during the run": (disk_full, 12),
    "disk turns read-only": (disk_read_only, 6),
    "open journals deleted": (journals_deleted, 6),
    "the run's folder deleted during the run": (run_deleted, 6),
    "a file of a finished run deleted": (files_lost, 40),
    "a file of a finished run damaged": (files_damaged, 40),
    "a journal page damaged": (journal_damaged, 60),
    "the machine sleeps": (machine_sleeps, 4),
    "the clock jumps": (clock_jumps, 4),
    "a second run of the same folder": (two_runs, 6),
    "Ctrl-C, SIGTERM or a closed terminal": (told_to_stop, 12),
    "Ctrl-C, SIGTERM or a closed terminal, under Prefect": (prefect_told_to_stop, 4),
}
