"""Runs one command as long as its parent lives: `python supervise.py COMMAND…`, stdlib only.

It must lead its own process group, with a pipe from the parent as its standard input. When the pipe
closes (the parent is done, or was killed with -9) or the command ends, the whole group is ended: asked
first, killed after a grace period, this process included. Should this process be killed, the kernel ends the command.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 10.0
STRAGGLERS_S = 0.5
POLL_S = 0.5
PR_SET_PDEATHSIG = 1  # of prctl(2), on Linux


def main(command: list[str]) -> None:
    """Start `command`, wait for its end or for the parent's, then end the process group."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it asks the others; this process must outlive them
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_bound_to_us)
    while child.poll() is None and os.getppid() == parent:
        if select.select([sys.stdin], [], [], POLL_S)[0]:
            break
    if (
        status := child.poll()
    ) is not None and status < 0:  # for whoever reads the log: it cannot say so itself
        print(f"Killed: a signal ended it ({signal.Signals(-status).name})", flush=True)  # noqa: T201
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(STRAGGLERS_S)  # the engine's own processes end a moment after the server
    os.killpg(0, signal.SIGKILL)


def _bound_to_us() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
