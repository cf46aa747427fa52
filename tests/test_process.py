"""What a run asks of its process: rare garbage collections, and enough open files or a clear word of their lack."""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cai.process import GC_ALLOCATIONS, in_thread, rare_collections

PROMPTS = """
import resource, sys
from pathlib import Path
soft, hard, root = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from cai.config import RunConfig
from cai.errors import ConfigError
from cai.publish import write_prompts
config = RunConfig.model_validate({
    "name": "many", "outputs": str(root), "constitution": "c.yaml", "shards": 300,
    "prompts": [{"path": str(root / "prompts.txt")}],
    "models": {"m": {"backend": "vllm", "model": "m", "endpoint": "http://127.0.0.1:9"}},
    "policy": {"model": "m"}, "critic": {"model": "m"}, "judge": {"model": "m"},
})
try:
    print(sum(report.rows_out for report in write_prompts(config)))
except ConfigError as error:
    print(error)
"""


def sort_prompts(folder: Path, soft: int, hard: int) -> str:
    """What comes of 1,000 prompts for 300 shards, in a process with these limits of open files."""
    (folder / "prompts.txt").write_text("".join(f"question {i}\n" for i in range(1000)))
    command = [sys.executable, "-c", PROMPTS, str(soft), str(hard), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096, reason="this system allows too few open files"
)
def test_hundreds_of_shards_raise_the_soft_limit(tmp_path: Path) -> None:
    """A soft limit below the number of files is no obstacle: every prompt is in the one shard of its id."""
    assert sort_prompts(tmp_path, 512, 4096) == "1000"
    assert sum(len(file.read_bytes().splitlines()) for file in tmp_path.glob("many/prompts/rows-*")) == 1000
    assert len(list(tmp_path.glob("many/prompts/manifest-*"))) == 300


def test_too_many_shards_for_the_system_say_so(tmp_path: Path) -> None:
    """Where the hard limit forbids it, one line names the number of shards and the limit, and nothing is published."""
    line = sort_prompts(tmp_path, 512, 512)
    assert line.startswith("shards 300: ") and "856 open files" in line and "allows 512" in line
    assert not list(tmp_path.glob("many/prompts/*"))


def test_collections_are_rare_until_the_last_block_ends() -> None:
    """Blocks that overlap share one setting; what was set before comes back, also where it was 0 (switched off)."""
    before = gc.get_threshold()
    try:
        for first in (700, 0):
            gc.set_threshold(first, 10, 10)
            one, other = rare_collections(), rare_collections()
            one.__enter__()
            other.__enter__()
            assert gc.get_threshold()[0] == (GC_ALLOCATIONS if first else 0)
            one.__exit__(None, None, None)
            assert gc.get_threshold()[0] == (GC_ALLOCATIONS if first else 0)
            other.__exit__(None, None, None)
            assert gc.get_threshold() == (first, 10, 10)
    finally:
        gc.set_threshold(*before)


@pytest.mark.anyio
async def test_who_is_cancelled_waits_for_the_thread() -> None:
    """The event loop goes on meanwhile; what the thread writes to is not taken away from under it."""
    go_on, ended = threading.Event(), []

    def work() -> None:
        go_on.wait(10)
        ended.append(True)

    waiting = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended and await in_thread(lambda: 5) == 5


def test_who_is_cancelled_beside_a_failure_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Two shards that fail at once tell one error, and no traceback for the other."""

    def work() -> None:
        time.sleep(0.05)
        raise ValueError("of the second shard")

    async def first() -> None:
        waiting = asyncio.create_task(in_thread(work))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(first())
    gc.collect()
    assert not caplog.records
