"""Locks: who is let in when the lock file, its folder or its holder is gone."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cai.errors import ConfigError, StoreError
from cai.runfolder.hold import hold_run
from cai.store.lock import held, held_folder, lock, unlock
from tests.flows.small import small_run

HOLDER = """\
import os, sys, time
from pathlib import Path
from cai.store.lock import lock
lock(Path(sys.argv[1]), "it")
if not os.fork():
    print("forked", flush=True)
time.sleep(600)
"""


def test_a_deleted_lock_file_lets_nobody_into_a_run(tmp_path: Path) -> None:
    """The folder itself is held as well, by whatever name it is reached."""
    config = small_run(tmp_path, "http://127.0.0.1:9/v1")
    (tmp_path / "link").symlink_to(tmp_path / "outputs")
    other = config.model_copy(update={"outputs": f"{tmp_path}/link/../link"})
    with hold_run(config):
        with pytest.raises(StoreError, match=f"link/small is in use by another run .pid {os.getpid()} on"):
            hold_run(other).__enter__()
        (config.root / "run.lock").unlink()
        with pytest.raises(StoreError, match="in use by another run, whose lock file was deleted"):
            hold_run(other).__enter__()
    with hold_run(other):
        pass


def test_a_lock_file_that_is_replaced_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a file without a name keeps nobody out."""
    path = tmp_path / "run.lock"
    flock = fcntl.flock
    tries: list[int] = []

    def slow(descriptor: int, how: int) -> None:
        if not tries:
            path.unlink()
        tries.append(descriptor)
        flock(descriptor, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", slow)
        descriptor = lock(path, "it")
    assert len(tries) == 2 and os.path.samestat(os.fstat(descriptor), path.stat())
    with pytest.raises(StoreError, match="in use"):
        lock(path, "it")
    unlock(descriptor)


def test_a_forked_process_does_not_keep_the_lock_of_a_dead_one(tmp_path: Path) -> None:
    """What a run has forked may outlive it; the next run must not wait for that."""
    path = tmp_path / "run.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(StoreError, match=f"pid {process.pid}"):
            lock(path, "it")
        process.kill()
        process.wait()
        with held(path, "it"):
            os.killpg(process.pid, 0)  # the forked one lives
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()


def test_a_file_system_that_locks_no_folders_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS has no locks on folders; the lock file is what there is."""

    def refused(descriptor: int, how: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refused)
    with held_folder(tmp_path, "it"):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file where the folder should be, as any user meets it."""
    config = small_run(tmp_path, "http://127.0.0.1:9/v1")
    (tmp_path / "outputs").write_text("")
    with pytest.raises(ConfigError, match="outputs/small: Not a directory; set 'outputs'"):
        hold_run(config).__enter__()
