"""`cai run --no-prefect`: the run of the flow in one process, its end and its errors."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from cai.conduct import main
from cai.conduct.main import told
from cai.config import RunConfig
from tests.flows.small import obliging, published, small_config, write_inputs
from tests.small_cli import cai
from tests.wire import Fault, Wire, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
LIMIT = 8  # max_concurrency of the small run


def start(config: Path, *options: str) -> subprocess.Popen[bytes]:
    """The command, in a process of its own, which hears Ctrl-C also where these tests run in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "cai", "run", str(config), "--no-prefect", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "120"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def on_terminal(config: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The command on a terminal of its own, with Ctrl-C ignored; what closing the descriptor hangs up."""
    ours, its = pty.openpty()

    def prepare() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-m", "cai", "run", str(config), "--no-prefect"],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=prepare,
    )
    os.close(its)
    return process, ours


async def ended(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Wait for the end; returns what it wrote to stdout and stderr."""
    out, errors = await asyncio.to_thread(process.communicate)
    return out.decode(), errors.decode()


async def finished(config: Path, *options: str) -> str:
    """The command, to an end that is good; returns what it wrote to stdout."""
    done = await cai("run", config, "--no-prefect", *options)
    assert done.status == 0, done.err
    return done.out


def write_config(folder: Path, endpoint: str, **changes: Any) -> Path:
    """Inputs and config of the small run as files."""
    folder.mkdir(exist_ok=True)
    write_inputs(folder)
    path = folder / "run.yaml"
    path.write_text(json.dumps(small_config(folder, endpoint, **changes)))
    return path


async def until_calls(wire: Wire, process: subprocess.Popen[bytes], calls: int) -> None:
    while wire.calls < calls:
        assert process.poll() is None, process.communicate()
        await asyncio.sleep(0.01)


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Which bytes lie under each name: a file that is published again is another one."""
    ignored = {"summary.json", "run.lock"}
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and path.name not in ignored and path.suffix not in (".lock", ".log")
    }


async def test_a_second_run_asks_and_writes_nothing(tmp_path: Path) -> None:
    """It shows the same summary, makes no call, and leaves every file as it is; a changed prompt is noticed."""
    async with wire_server(reply=obliging) as server:
        config = write_config(tmp_path, server.openai_url)
        root = tmp_path / "outputs" / "small"
        first = await finished(config)
        assert "generate" in first and "dataset" in first
        calls, files = server.calls, stamps(root)
        assert await finished(config) == first
        assert server.calls == calls
        assert stamps(root) == files
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text(prompts.read_text().replace("Tell me about 2 ", "Tell me all about 2 "))
        await finished(config)
        assert calls < server.calls < 2 * calls
        changed = {name for name, stamp in stamps(root).items() if files.get(name) != stamp}
        assert {"report.html", "dataset/preference/train.jsonl", "coverage.json"} <= changed
        (root / "report.html").unlink()
        (root / "dataset" / "sft" / "train.jsonl").write_text("{}\n")
        whole = published(root).keys()
        await finished(config)
        assert (root / "report.html").is_file()
        assert published(root).keys() == whole and published(root)["dataset/sft/train.jsonl"] != b"{}\n"


@pytest.mark.parametrize(
    "sent",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
async def test_an_interrupted_run_goes_on(tmp_path: Path, sent: signal.Signals) -> None:
    """What was done, one line with the command to go on with, status 130; then the bytes of a run left alone.

    Whoever is impatient and repeats it changes nothing.
    """
    async with wire_server(reply=obliging, delay_s=0.05) as server:
        config = write_config(tmp_path / "whole", server.openai_url)
        await finished(config)
        calls = server.calls
    async with wire_server(reply=obliging, delay_s=0.05) as server:
        config = write_config(tmp_path / "broken", server.openai_url)
        process = start(config, "--set", "judge.threshold=0.6")
        await until_calls(server, process, 20)
        for _ in range(3):
            process.send_signal(sent)
            await asyncio.sleep(0.02)
        told, errors = await ended(process)
        assert process.returncode == 130
        assert "run small" in told and "prompts" in told and "rows so far" in told
        kept = re.search(r"kept +(\d+) calls, .* tokens, cost unknown", told)
        assert kept and 20 - LIMIT <= int(kept[1]) <= server.calls
        again = f"resume with: cai run {config} --no-prefect --set judge.threshold=0.6"
        assert again in errors and "Traceback" not in errors
        await finished(config, "--set", "judge.threshold=0.6")
        assert calls <= server.calls <= calls + LIMIT
    roots = [tmp_path / name / "outputs" / "small" for name in ("whole", "broken")]
    assert published(roots[0]) == published(roots[1])


@pytest.mark.parametrize(
    ("changes", "options", "status", "words"),
    [
        ({}, ["--set", "judge.treshold=1"], 2, "did you mean 'threshold'"),
        ({"ray": {"workers": 2}}, [], 2, "leave --no-prefect out"),
        ({"name": "small"}, ["--set", "constitution=nowhere.yaml"], 2, "nowhere.yaml"),
    ],
)
async def test_a_mistake_is_one_line(
    tmp_path: Path, changes: dict[str, Any], options: list[str], status: int, words: str
) -> None:
    """With the exit status of a mistake, and before anything is asked."""
    async with wire_server(reply=obliging) as server:
        config = write_config(tmp_path, server.openai_url, **changes)
        done = await cai("run", config, "--no-prefect", *options)
        assert server.calls == 0
    assert done.status == status
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and words in done.err
    assert not done.out


async def test_a_fatal_failure_is_one_line_and_how_to_go_on(tmp_path: Path) -> None:
    """A key that is refused midway: exit status 1, and the run can be resumed."""

    def refused(call: int) -> Fault | None:
        return Fault(status=401, message="the key was withdrawn") if call >= 20 else None

    async with wire_server(reply=obliging, faults=refused) as server:
        config = write_config(tmp_path, server.openai_url)
        done = await cai("run", config, "--no-prefect")
    assert done.status == 1
    told = [line for line in done.err.splitlines() if line.startswith(("error:", "resume with:"))]
    assert len(told) == 2 and "the key was withdrawn" in told[0]


@pytest.mark.parametrize(
    ("name", "options", "command"),
    [
        ("pipeline", [], "cai run {config} --set 'outputs=two words'"),
        ("evaluate", ["--require", "harmless>=0.9"], "cai eval {config} --require 'harmless>=0.9' --set"),
        ("calibrate", ["--out", "c.json"], "cai judge calibrate {config} --out c.json --set"),
        ("generate", [], "python -m flows generate {config} --set"),
    ],
)
def test_the_command_to_go_on_with_is_the_one_that_was_given(
    name: str,
    options: list[str],
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its name and options, quoted for a shell."""

    def interrupted(_: RunConfig) -> int:
        raise KeyboardInterrupt

    config = write_config(tmp_path, "http://127.0.0.1:1/v1")
    monkeypatch.setattr(main, "stop_listening", lambda: None)  # of the tests' own process
    assert told(name, str(config), ["outputs=two words"], interrupted, options) == 130
    assert f"resume with: {command.format(config=config)}" in capsys.readouterr().err


async def test_a_closed_terminal_stops_the_run(tmp_path: Path) -> None:
    """Nothing can be written to it any more; the run is left as after Ctrl-C, also where a shell has that ignored."""
    async with wire_server(reply=obliging, delay_s=0.05) as server:
        config = write_config(tmp_path, server.openai_url)
        process, ours = on_terminal(config)
        while server.calls < 20:
            assert process.poll() is None
            await asyncio.sleep(0.01)
        os.close(ours)
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(process.wait) == 130
        await finished(config)
    keys = [json.dumps(request, sort_keys=True) for request in server.requests]
    assert len(keys) - len(set(keys)) <= LIMIT


def test_a_signal_that_another_library_hears_by_raising_stops_the_run() -> None:
    """Prefect raises out of its handler of SIGTERM, and an event loop that waits would swallow that."""

    class Told(BaseException):
        """What is no Exception."""

    def raised(number: int, frame: object) -> None:
        raise Told

    async def waiting() -> None:
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    before = signal.signal(signal.SIGTERM, raised)
    try:
        with pytest.raises((KeyboardInterrupt, Told)):
            main.run_in_loop(waiting())
    finally:
        signal.signal(signal.SIGTERM, before)


def test_want_of_memory_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to lower, and how to go on."""

    def full(_: RunConfig) -> int:
        raise MemoryError

    config = write_config(tmp_path, "http://127.0.0.1:1/v1")
    assert told("pipeline", str(config), [], full) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "max_concurrency" in lines[0] and lines[1].startswith("resume with: cai run")
