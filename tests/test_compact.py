"""Compacting journals: what is needed stays, what is not goes, and a kill leaves the old file or the new one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cai.conduct.compact import compact_run
from cai.config import RunConfig
from cai.errors import StoreError
from cai.runfolder.hold import hold_folder
from tests.conduct.here import pipeline
from tests.flows.small import obliging, published, small_run
from tests.small_cli import cai
from tests.wire import wire_server

pytestmark = pytest.mark.anyio

KILLED = """\
import asyncio, os, signal, sys
from pathlib import Path
from cai.conduct.compact import compact_run
from cai.config_file import load_config
when, replace = sys.argv[2], Path.replace
def die(): os.kill(os.getpid(), signal.SIGKILL)
def replaced(self, target):
    if when == "before": die()
    replace(self, target)
    die()
Path.replace = replaced
asyncio.run(compact_run(load_config(sys.argv[1], [])))
"""


def journals(config: RunConfig) -> dict[Path, bytes]:
    """The bytes of all journals of a run."""
    return {path: path.read_bytes() for path in sorted((config.root / "journal").rglob("*.jsonl"))}


async def edited(folder: Path, endpoint: str) -> RunConfig:
    """A run that has been run twice, with prompts that were edited in between, and whose journals are damaged."""
    config = small_run(folder, endpoint)
    await pipeline(config)
    prompts = folder / "prompts.jsonl"
    prompts.write_text(prompts.read_text().replace("Tell me about 2 ", "Tell me all about 2 "))
    await pipeline(config)
    for path, whole in journals(config).items():
        lines = whole.splitlines(keepends=True)
        path.write_bytes(bytes(512) + b"\n" + b"".join(lines) + lines[0] + lines[-1])
    return config


@pytest.mark.slow
async def test_a_compacted_run_asks_nothing_more(tmp_path: Path) -> None:
    """Stale replies, damage and doubles are gone; with all rows lost the journals answer everything."""
    async with wire_server(reply=obliging) as server:
        config = await edited(tmp_path, server.openai_url)
        before, rows, calls = journals(config), published(config.root), server.calls
        told = await cai("journal", "compact", config.root, "--dry-run", "--json")
        assert told.status == 0 and journals(config) == before
        done = await cai("journal", "compact", config.root)
        assert done.status == 0 and "replies dropped" in done.out and "1 damaged lines dropped" in done.out
        after = journals(config)
        assert sum(map(len, after.values())) == sum(one["after"] for one in told.json)
        assert sum(one["dropped"] for one in told.json) > 0
        assert sum(one["damaged"] for one in told.json) == len(after)
        assert all(len(after[path]) < len(before[path]) for path in after)
        for path in config.root.glob("*/rows-*.jsonl"):
            path.unlink()
        await pipeline(config)
        assert (server.calls, published(config.root)) == (calls, rows)
        assert (await compact_run(config))[0].dropped == 0 and journals(config) == after


@pytest.mark.slow
async def test_an_unfinished_shard_keeps_every_reply(tmp_path: Path) -> None:
    """Also one whose config has changed since: only a run knows what it will ask."""
    async with wire_server(reply=obliging) as server:
        config = await edited(tmp_path, server.openai_url)
        calls = server.calls
        (config.root / "judge" / "manifest-00001.json").unlink()
        seeded = config.model_copy(update={"seed": 7})
        assert all(one.whole and not one.dropped for one in await compact_run(seeded))
        found = {(one.stage, one.shard): one for one in await compact_run(config)}
        assert [key for key, one in found.items() if one.whole] == [("judge", 1)]
        await pipeline(config)
        assert server.calls == calls


async def test_a_run_in_use_is_left_alone(tmp_path: Path) -> None:
    """Its journals are open."""
    config = small_run(tmp_path, "http://127.0.0.1:9/v1")
    config.root.mkdir(parents=True)
    with hold_folder(config.root), pytest.raises(StoreError, match="in use by another run"):
        await compact_run(config)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, when: str) -> None:
    """And what it leaves beside them goes the next time."""
    async with wire_server(reply=obliging) as server:
        config = await edited(tmp_path, server.openai_url)
        (tmp_path / "config.yaml").write_text(config.model_dump_json())
        before, calls = journals(config), server.calls
        command = [sys.executable, "-c", KILLED, str(tmp_path / "config.yaml"), when]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL  # noqa: ASYNC221
        changed = [path for path, raw in journals(config).items() if raw != before[path]]
        assert len(changed) == (when == "after")
        await compact_run(config)
        assert not list((config.root / "journal").rglob("*.tmp"))
        for path in config.root.glob("*/rows-*.jsonl"):
            path.unlink()
        await pipeline(config)
        assert server.calls == calls
