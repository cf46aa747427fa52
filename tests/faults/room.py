"""A disk that a test may fill and lock: a tmpfs in namespaces of its own, which nobody else sees and no right is needed
for, where the system allows that."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

WHOLE = "1g"


@functools.cache
def no_rooms() -> str:
    """Why there can be no such disk here; "" where there can."""
    if missing := [tool for tool in ("unshare", "nsenter", "mount") if shutil.which(tool) is None]:
        return f"{missing[0]} is not installed"
    tried = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "cai", "/tmp"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"no mounts in a user namespace: {tried.stderr.strip()}"


class Room:
    """The disk, mounted at `folder` for those whose command begins with `inside`; a context manager.

    `seen`: the folder as everybody else sees it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        mount = f"mount -t tmpfs -o size={WHOLE} cai {folder} && echo ready && exec cat"
        self._holder = subprocess.Popen(  # ends with its standard input, so with us
            ["unshare", "-rm", "--propagation", "private", "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None and self._holder.stdout.readline() == b"ready\n"
        own = f"--wd={Path.cwd()}"
        self.inside = ["nsenter", "-t", str(self._holder.pid), "-U", "-m", "--preserve-credentials", own]
        self.seen = Path(f"/proc/{self._holder.pid}/root") / folder.relative_to("/")

    def leave(self, free: int) -> None:
        """Make the disk so small that this many bytes are left of it."""
        while True:  # it cannot be smaller than what is written meanwhile
            found = os.statvfs(self.seen)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            size = max(used + free, found.f_frsize)
            if self._mount("-o", f"remount,size={size}", str(self.folder), check=False):
                return

    def lock(self) -> None:
        """Make the disk read-only to all that is opened from now on."""
        beside = self.folder.with_name(f"{self.folder.name}-locked")  # where nobody has a file open
        beside.mkdir()
        self._mount("--bind", str(self.folder), str(beside))
        self._mount("-o", "remount,bind,ro", str(beside))
        self._mount("--move", str(beside), str(self.folder))

    def restore(self) -> None:
        """Make it large and writable again."""
        self._mount("-o", f"remount,bind,rw,size={WHOLE}", str(self.folder))
        self._mount("-o", f"remount,rw,size={WHOLE}", str(self.folder))

    def _mount(self, *arguments: str, check: bool = True) -> bool:
        done = subprocess.run([*self.inside, "mount", *arguments], capture_output=True, check=check)
        return done.returncode == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()
