"""A child process group that cannot outlive us, and the reason it gave when it failed. POSIX only.

The child's standard input is a lifeline: a pipe whose writing end only we hold. However we end, kill -9
included, the pipe closes, and each training process (see `cai.train.main`) kills its own group. Closing it
also reaches workers that torchrun put into sessions of their own, which a kill of the group does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.errors import CaiError, ConfigError, TrainError
from cai.train.memory import host_knobs, knobs
from cai.train.plan import TrainPlan

POLL_S = 0.2
TAIL_BYTES = 65536
_ERROR = re.compile(r"^(?:\[rank\d+\]: ?)?([\w.]*(?:Error|Exception|Interrupt|Exit))(?:: (.*))?$")
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|can't allocate memory|MemoryError", re.IGNORECASE)
_LAUNCHER_NOISE = ("CalledProcessError", "ChildFailedError")


def supervise(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    on_poll: Callable[[], None],
    stop: threading.Event | None,
) -> int:
    """Run `command` to its end with its output appended to `log`; returns the exit status.

    Calls `on_poll` about five times a second. When `stop` is set, or the interpreter is shutting down
    around this thread, or anything raises, the whole group is killed before the error goes on.
    """
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            on_poll()
            if (stop is not None and stop.is_set()) or not threading.main_thread().is_alive():
                raise TrainError(f"training was stopped; the same command resumes it (log: {log})")
            time.sleep(POLL_S)
        on_poll()
        return process.returncode
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class JsonlTail:
    """Reads the records appended to a JSONL file since the last call; a line without its end waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read(self) -> list[dict[str, Any]]:
        """All complete new records, in order."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            complete = stream.read().rpartition(b"\n")
        self._offset += len(complete[0]) + len(complete[1])
        return [json.loads(line) for line in complete[0].splitlines()]


def failure(plan: TrainPlan, log: Path, start: int, status: int, by_kernel: bool = False) -> CaiError:
    """The error to raise for a training that ended with `status`; `start`: where its output begins in `log`.

    The user's own mistakes found in the child come back as the ConfigError that they are. `by_kernel`: the kernel
    ended some process for want of memory meanwhile.
    """
    text = _tail(log, start)
    name, message = _last_error(text)
    if name == "cai.errors.ConfigError":
        return ConfigError(message)
    what = ": ".join(part for part in (name.rpartition(".")[2], message) if part) or f"exit status {status}"
    advice = ""
    if _OUT_OF_MEMORY.search(what):
        advice = f"; {knobs(plan)}"
    elif "SIGKILL" in text or status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        by = "by the kernel for want of memory" if by_kernel else "as the kernel does for want of memory"
        advice = f"; killed (SIGKILL), {by}: {knobs(plan) if plan.args.get('use_cpu') else host_knobs(plan)}"
    return TrainError(f"{plan.kind} training failed: {what}{advice} (log: {log})")


def last_error(log: Path, start: int) -> str:
    """The last error in what a process has written to `log` from `start` on, else its last line."""
    name, message = _last_error(_tail(log, start))
    return ": ".join(part for part in (name, message) if part) or "it ended without a word"


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(start, size - TAIL_BYTES))
        return stream.read().decode("utf-8", errors="replace")


def _last_error(text: str) -> tuple[str, str]:
    """Name and message of the last exception that is the trainer's own, else ("", last line of the log).

    One about memory goes first: the other processes of the training end with errors about the one that is gone.
    """
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    matches = [match for line in reversed(lines) if (match := _ERROR.match(line))]
    own = [match for match in matches if not match[1].endswith(_LAUNCHER_NOISE)]
    for match in (*(match for match in own if _OUT_OF_MEMORY.search(match[0])), *own):
        return match[1], match[2] or ""
    return "", lines[-1] if lines else ""
