"""What a process changes about itself while it drives an engine: environment, output, log, and who ends the engine."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

KEEPER = Path(__file__).with_name("keeper.py")


def log_to(path: Path) -> None:
    """Let what vLLM says in this process go to the engine's log."""
    logger = logging.getLogger("vllm")
    formatter = next((handler.formatter for handler in logger.handlers), None)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if isinstance(handler, logging.FileHandler):
            handler.close()
    file = logging.FileHandler(path)
    file.setFormatter(formatter)
    logger.addHandler(file)


@contextlib.contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    """This process's environment with `changes`, for the block: vLLM and the engine's processes read it there.

    At the end it is what it was: vLLM sets thread counts and preloads of its own, which no trainer should inherit.
    """
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def output_to(log_path: Path) -> Iterator[None]:
    """Standard output and error of this process, and of those it starts, into the log for the block.

    So goes the traceback of an error; vLLM's parser has said what is wrong when it exits.
    """
    saved = {stream: os.dup(stream) for stream in (1, 2)}
    with log_path.open("a", buffering=1) as log:
        sys.stdout.flush()
        for stream in saved:
            os.dup2(log.fileno(), stream)
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        except Exception:
            traceback.print_exc(file=log)
            raise
        finally:
            for stream, copy in saved.items():
                os.dup2(copy, stream)
                os.close(copy)


@contextlib.contextmanager
def kept(log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process that ends the engine's processes should this one be killed."""
    with log_path.open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-P", str(KEEPER)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
    try:
        yield keeper
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()
