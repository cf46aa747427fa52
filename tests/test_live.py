"""A run while it goes: what its log and another shell tell of each stage, and what is left of that when it ends."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cai.report import progress as progress_module
from cai.report.live import FILE, Live, Meter, StageNow, read_live, write_live
from cai.report.progress import Board, clock, told_stage
from cai.report.status import run_status
from cai.report.watch import print_live, watch
from cai.shard.progress import Progress
from cai.store.lock import Holder, held, holder
from tests.small_cli import ROOT, Done, cai, config_file, environment
from tests.wire import Answer, Json, asked_choices, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
NOUNS = ("rows/s", "tokens/s", "in flight", "tokens, $")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The clock of the meters, set by the test."""
    time = [100.0]
    monkeypatch.setattr("cai.report.live.time.monotonic", lambda: time[0])

    def to(seconds: float) -> None:
        time[0] = 100.0 + seconds

    return to


def shard(done: int, generated: int = 0, in_flight: int = 0, **drops: int) -> Progress:
    return Progress(done, 50, done, 0, 7 * done, generated, 0.25, generated, in_flight, drops)


def test_a_meter_tells_speed_and_time_to_go(now: Callable[[float], None]) -> None:
    """Of all shards together; calls in flight are no more than are let through."""
    meter = Meter(100, limit=8)
    now(5)
    meter.update(0, shard(10, 200, 6, unparsed=1))
    now(10)
    meter.update(1, shard(30, 300, 6, unparsed=2, refused=1))
    found = meter.now()
    assert (found.rows_done, found.rows_per_s, found.tokens_per_s, found.eta_s) == (40, 4.0, 50.0, 15.0)
    assert (found.in_flight, found.drops, found.cost) == (8, {"refused": 1, "unparsed": 3}, 0.5)
    assert (
        told_stage(found) == "4.0 rows/s, 50 tokens/s, 0:15 left, 8 in flight, 4 dropped, 780 tokens, $0.50"
    )


def test_speed_is_of_the_last_half_minute(now: Callable[[float], None]) -> None:
    """What the journal answered at the start says nothing of the rest; a stall shows, an end is none."""
    meter = Meter(1000)
    for second in range(0, 101, 10):
        now(second)
        meter.update(0, shard(500 + second, second))
    assert meter.now().rows_per_s == pytest.approx(1.0)
    now(140)
    assert meter.now().rows_per_s == pytest.approx(0.5)
    meter.update(0, shard(1000))
    fast = meter.now().rows_per_s
    now(500)
    assert meter.now().rows_per_s == fast and meter.now().eta_s == 0


def test_clock() -> None:
    """Minutes and seconds, then hours and minutes."""
    assert [clock(seconds) for seconds in (4.4, 75, 3599, 3600, 90_061)] == [
        "0:04",
        "1:15",
        "59:59",
        "1h00m",
        "25h01m",
    ]


def test_a_lock_tells_its_holder(tmp_path: Path) -> None:
    """While it is held, and not afterwards; a signature alone is no holder."""
    path = tmp_path / "run.lock"
    assert holder(path) is None
    with held(path, "the run"):
        assert holder(path) == Holder(os.getpid(), socket.gethostname())
    assert holder(path) is None and path.is_file()


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The folder of a run that another process holds, until its input closes."""
    (tmp_path / "config.json").write_text("{}")
    code = "import sys; from cai.store.lock import held; from pathlib import Path\n"
    code += "with held(Path(sys.argv[1]), 'x'): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stdout.readline() == b"held\n"
    (tmp_path / "pid").write_text(str(process.pid))
    return tmp_path


def end(pid: int) -> None:
    """Kill it, as a power cut would."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def stage_now(**changes: object) -> StageNow:
    return Meter(10).now().model_copy(update=changes)


def test_only_a_living_run_is_live(other: Path) -> None:
    """What a killed run left is not taken for what the next one does; a file of another version is nothing."""
    pid = int((other / "pid").read_text())
    seen = Live(
        pid=pid, host=socket.gethostname(), at=0, said="", stages={"judge": stage_now()}, trainings={}
    )
    write_live(other, seen)
    assert read_live(other) == seen
    write_live(other, seen.model_copy(update={"pid": pid + 1}))
    assert read_live(other) is None
    (other / FILE).write_text('{"pid": 1, "other": 2}')
    assert read_live(other) is None
    write_live(other, seen)
    end(pid)
    assert read_live(other) is None and (other / FILE).is_file()


def test_names_and_lines_cannot_steer_a_terminal(other: Path) -> None:
    """Whatever wrote the file: escape sequences and markup are shown, not obeyed, on a terminal and in a pipe."""
    pid = int((other / "pid").read_text())
    hostile = "\x1b[2Jx\u202e[red]"
    live = Live(
        pid=pid, host=hostile, at=0, said=hostile,
        stages={hostile: stage_now(drops={hostile: 3}, eta_s=5.0, in_flight=2)}, trainings={},
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    print_live(live, console)
    print_live(live.model_copy(update={"stages": {}}), console)
    write_live(other, live)
    watch(other, console, pause=lambda seconds: end(pid))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text and "\u202e" not in text and text.count("[red]") >= 3


def test_a_board_ends_its_lines_and_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage has a line with where it got to, however short it was; the next group of stages begins anew."""
    monkeypatch.setattr(progress_module, "FILE_INTERVAL_S", -1.0)
    console = Console(file=io.StringIO(), width=200)
    board = Board(console)
    board.stage("unled", 10, root=tmp_path)(0, shard(5))  # a worker of another process' run writes no file
    assert not (tmp_path / FILE).exists()
    with board:
        update = board.stage("judge", 60, at_most=True, root=tmp_path)
        update(0, shard(50, unparsed=1))
        assert set(Live.model_validate_json((tmp_path / FILE).read_bytes()).stages) == {"unled", "judge"}
    assert not (tmp_path / FILE).exists()
    update(0, shard(51))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "judge: 50 of at most 60 rows" in text and "1 dropped" in text and "51 of" not in text
    assert "\x1b" not in text and "\r" not in text


def test_on_a_terminal(other: Path) -> None:
    """Bars with all nouns beside them, however narrow it is; and one picture for who watches, until the end."""
    console = Console(file=io.StringIO(), width=72, force_terminal=True, color_system=None)
    with Board(console) as board:
        board.stage("judge", 60)(0, shard(30, 90, 7, unparsed=2))
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "30 of 60 rows" in shown and "7 in" in shown and "2 dropped" in shown
    pid = int((other / "pid").read_text())
    live = {"pid": pid, "host": socket.gethostname(), "at": 0.0, "said": "", "trainings": {}}
    write_live(
        other, Live.model_validate(live | {"stages": {"judge": stage_now(in_flight=7, drops={"tie": 4})}})
    )

    console = Console(file=io.StringIO(), width=72, force_terminal=True, color_system=None)
    watch(other, console, pause=lambda seconds: end(pid))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(word in shown for word in ("in flight", "tie 4", "0 of 10", "tokens/s"))


def reply(body: Json) -> Answer:
    """A critique that finds nothing, a verdict for A, and a reply that is another one for every call."""
    if asked_choices(body):
        return Answer("A", {"A": 0.9, "B": 0.1})
    return Answer(
        "Nothing.\nVERDICT: keeps" if "VERDICT" in str(body["messages"]) else f"It is {len(str(body))}."
    )


async def test_a_run_is_followed_from_another_shell(tmp_path: Path) -> None:
    """While it goes, every noun of a stage, as a table, as numbers and as lines; at its end the summary."""
    (tmp_path / "edited.yaml").write_text(
        'schema: 1\nname: own\nversion: "1"\nprinciples:\n  - {id: kind, statement: Be kind to whoever asks.}\n'
    )
    async with wire_server(reply, delay_s=0.2) as server:
        path = config_file(tmp_path, server.openai_url)
        config = json.loads(path.read_text())
        slow = {"max_concurrency": 2, "deadline_s": 600, "timeout_s": 600}
        config["models"]["toy"] |= slow | {"price": {"input": 1, "output": 2}}
        path.write_text(json.dumps(config))
        root = tmp_path / "outputs" / "small"
        run = asyncio.create_task(cai("run", path, "--no-prefect"))
        pid = await _at_work(root, run)
        os.kill(pid, signal.SIGSTOP)  # however long the looks take, this is what they see
        try:
            looks = [await cai("status", root), await cai("status", root, "--json")]
            command = [sys.executable, "-m", "cai", "status", str(root), "--watch"]
            watching = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE
            )
            assert watching.stdout
            first = (await watching.stdout.readline()).decode()
        finally:
            os.kill(pid, signal.SIGCONT)
        done, (rest, _) = await run, await watching.communicate()
    assert done.status == 0, done.err
    assert first.startswith("generate: ") and all(noun in first for noun in NOUNS), first
    assert "run small" in rest.decode() and "running" not in rest.decode()
    table, status = looks[0].out, looks[1].json
    assert f"running  pid {pid}" in table and "in flight" in table and "12" in table
    stage = status["live"]["stages"]["generate"]
    assert status["state"] == "running" and stage["rows_total"] == 12 and 1 <= stage["in_flight"] <= 2
    for name in ("generate", "revise", "judge"):
        line = next(line for line in done.err.splitlines() if line.startswith(f"{name}: 12 of"))
        assert all(noun in line for noun in ("rows/s", "tokens/s", "tokens, $")), line
    for text in (done.out, done.err, table, first, rest.decode()):
        assert re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) is None
    assert not (root / FILE).exists()
    assert (run_status(root)["state"], run_status(root)["live"]) == ("finished", None)


async def _at_work(root: Path, run: asyncio.Task[Done]) -> int:
    """The process of a run that has had replies."""
    while True:
        assert not run.done(), run.result().err
        live = read_live(root)
        if live and "generate" in live.stages and live.stages["generate"].calls_made > 3:
            return live.pid
        await asyncio.sleep(0.02)


async def test_watch_of_a_run_that_is_over(tmp_path: Path) -> None:
    """Prints what there is, at once; and refuses to be two things at a time."""
    done = await cai("status", tmp_path, "--watch")
    assert done.status == 2 and "not a run" in done.err
    (tmp_path / "config.json").write_text("{}")
    done = await cai("status", ROOT, "--watch", "--json")
    assert done.status == 2
