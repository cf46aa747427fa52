"""The suite's short version of what a machine does to a run; `make soak` does each of it many times."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from cai.errors import StoreError
from cai.runfolder.made import made, note_made
from cai.shard import read_manifest
from tests.conduct.here import pipeline
from tests.faults import host
from tests.faults.room import no_rooms
from tests.faults.scene import Scenario, check, ended, write_config
from tests.flows.small import obliging, small_run
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SEED = 8


@pytest.mark.skipif(no_rooms() != "", reason=no_rooms())
@pytest.mark.parametrize("scenario", [host.disk_full, host.disk_read_only])
async def test_a_disk_that_takes_nothing_more_stops_the_run_and_loses_nothing(
    tmp_path: Path, scenario: Scenario
) -> None:
    """One line names the file and what to do; the same command goes on when there is room again."""
    check(await scenario(tmp_path, SEED, 1))


@pytest.mark.parametrize(
    "scenario", [host.journals_deleted, host.run_deleted, host.machine_sleeps, host.clock_jumps]
)
async def test_a_run_that_is_disturbed_comes_to_the_same_rows(tmp_path: Path, scenario: Scenario) -> None:
    """Files deleted under it, a machine that sleeps, a clock that jumps."""
    check(await scenario(tmp_path, SEED, 1))


async def test_a_second_run_is_refused_before_its_first_call(tmp_path: Path) -> None:
    """By its holder, also under another name of the folder and without the lock file."""
    check(await host.two_runs(tmp_path, SEED, 2))


@pytest.mark.parametrize("scenario", [host.files_lost, host.files_damaged])
async def test_files_of_a_finished_run_are_made_again(tmp_path: Path, scenario: Scenario) -> None:
    """Nothing is asked for it, and the rows are the same."""
    check(await scenario(tmp_path, SEED, 12))


async def test_a_damaged_journal_costs_what_was_hit(tmp_path: Path) -> None:
    """Also where the rows that were made from it are gone."""
    check(await host.journal_damaged(tmp_path, SEED, 6))


async def test_a_damaged_number_in_a_manifest_or_a_note_is_noticed(tmp_path: Path) -> None:
    """Whatever bit flips, a file that says what is there is believed as it was written or not at all."""
    rng = random.Random(SEED)
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await pipeline(config)
    manifest = config.root / "judge" / "manifest-00000.json"
    whole, report = manifest.read_bytes(), read_manifest(manifest)
    note_made(config.root, "it", "inputs", [manifest], {"rows": 100})
    note = config.root / "made" / "it.json"
    noted = note.read_bytes()
    for _ in range(200):
        manifest.write_bytes(flipped(whole, rng))
        try:
            assert read_manifest(manifest) == report
        except StoreError as error:
            assert str(manifest) in str(error)
        manifest.write_bytes(whole)
        note.write_bytes(flipped(noted, rng))
        assert made(config.root, "it", "inputs") in (None, {"rows": 100})
    note.write_bytes(noted)
    manifest.write_bytes(b"other")
    assert made(config.root, "it", "inputs") is None
    assert not manifest.exists()  # so that whoever makes it again does not take it for its own


def flipped(whole: bytes, rng: random.Random) -> bytes:
    """The bytes with one bit of another value."""
    place = rng.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_without_the_right_to_write_is_refused_before_the_first_call(tmp_path: Path) -> None:
    """One line, and exit status 2: nothing was asked."""
    async with wire_server(reply=obliging) as server:
        config = write_config(tmp_path, server.openai_url)
        (tmp_path / "outputs").mkdir(mode=0o500)
        _, errors = await ended(host.begin(config))
        assert errors.startswith("error: ") and "set 'outputs' to a folder that can be written" in errors
        assert server.calls == 0
