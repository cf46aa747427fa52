"""Ends engine processes when the run that drives them is gone: `python keeper.py`, stdlib only.

An engine in the run's own process still has processes of its own, which nobody would end after a kill -9 of
the run. The run writes their ids here, one a line, on a pipe that is this process's standard input; when the
pipe closes, or the parent is gone (a forked process can hold the pipe open), those left are killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

POLL_S = 0.5


def main() -> None:
    """Take ids until the parent is gone, then kill what they stood for: a number used anew is safe."""
    parent = os.getppid()
    held: list[int] = []
    rest = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], POLL_S)[0]:
            continue
        chunk = os.read(0, 4096)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            with contextlib.suppress(ProcessLookupError):
                held.append(os.pidfd_open(int(line)))
    for process in held:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
