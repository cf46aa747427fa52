"""A trial of a draft on one prompt of the run, in a process of its own: `cai constitution try`, one at a time.

What it asks stays in the try-out's scratch folder beside the run; it writes nothing into the run. It is a process
group that is ended as a whole, first kindly, so that an engine which it started stops as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from cai.config import RunConfig
from cai.errors import ConfigError
from cai.store import decode
from cai.tryout.scratch import scratch_config
from cai.tryout.trial import Tryout

GRACE_S = 15.0  # from asking a trial to end until it is ended
LINES = 8  # of what it told last, that are kept
State = Literal["running", "done", "failed", "cancelled"]


@dataclass
class Trial:
    """One trial. `told`: its last lines on stderr; `result` once it is done, `problem` once it has failed."""

    draft: str
    principle: str
    prompt: str
    scratch: Path
    process: subprocess.Popen[bytes]
    begun: float = field(default_factory=time.monotonic)
    told: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    state: State = "running"
    result: Tryout | None = None
    problem: str = ""
    seconds: float = 0.0
    calls_before: int = 0

    @property
    def calls(self) -> int:
        """Replies that it has been given so far, other than by the journal."""
        return calls_in(self.scratch) - self.calls_before


class Trials:
    """The one trial of a viewer: the last that was started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.last: Trial | None = None

    @property
    def running(self) -> bool:
        """Whether a trial is going on."""
        return self.last is not None and self.last.state == "running"

    def start(self, run: Path, config: RunConfig, *, path: Path, principle: str, prompt: str) -> Trial:
        """Try a draft's principle on a prompt of the run. Raises ConfigError while another trial is going on."""
        with self._lock:
            if self.running:
                raise ConfigError("a trial is going on; wait for its end or stop it, then start this one")
            outputs = str(run.resolve().parent)
            scratch = scratch_config(config.model_copy(update={"outputs": outputs}), path.resolve())
            command = [
                sys.executable, "-m", "cai.view.try_child", "constitution", "try", str(path.resolve()),
                f"--run={run.resolve()}", f"--row={prompt}", f"--principle={principle}", "--json",
                "--set", f"outputs={json.dumps(outputs)}",
            ]  # fmt: skip
            before = calls_in(scratch.root)
            trial = Trial(path.stem, principle, prompt, scratch.root, _started(command), calls_before=before)
            self.last = trial
        threading.Thread(target=_follow, args=(trial,), daemon=True).start()
        return trial

    def cancel(self) -> None:
        """Ask the trial to end, and end it where it does not. Returns when it has ended."""
        trial = self.last
        if trial is None or trial.state != "running":
            return
        trial.state = "cancelled"
        for sign in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(trial.process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                trial.process.wait(GRACE_S)
                trial.seconds = time.monotonic() - trial.begun
                return


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    except (ValueError, OSError) as error:  # a NUL or a lone surrogate in the prompt's id
        raise ConfigError(f"the trial cannot be started ({error}); try it on another prompt") from error


def calls_in(scratch: Path) -> int:
    """How many replies the journals of a scratch folder hold."""
    found = 0
    for path in scratch.glob("journal/*/*.jsonl"):
        with contextlib.suppress(OSError):
            found += path.read_bytes().count(b"\n")
    return found


def _follow(trial: Trial) -> None:
    """Wait for the end of a trial, and keep what came of it."""
    process = trial.process
    assert process.stdout is not None and process.stderr is not None
    reader = threading.Thread(target=_listen, args=(process.stderr, trial.told), daemon=True)
    reader.start()
    said = process.stdout.read()
    status = process.wait()
    reader.join()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    trial.seconds = time.monotonic() - trial.begun
    if trial.state == "cancelled":
        return
    try:
        if status != 0:
            raise ValueError
        trial.result = decode(said, Tryout)
        trial.state = "done"
    except ValueError:
        errors = [line for line in trial.told if line.startswith("error: ")]
        last = errors or list(trial.told)
        trial.problem = last[-1].removeprefix("error: ") if last else f"it ended with status {status}"
        trial.state = "failed"


def _listen(stream: IO[bytes], told: deque[str]) -> None:
    for line in stream:
        text = line.decode("utf-8", "replace").strip()
        if text:
            told.append(text)
