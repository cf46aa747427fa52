"""The nightly flow: new prompts in, the next version out, nothing asked twice, nothing published by a bad judge."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset

from cai.config import RunConfig, SourceConfig
from cai.errors import JudgeError, StoreError
from cai.export.versions import read_changes, versions_of
from cai.store.lock import held
from flows.nightly import nightly
from flows.pipeline import pipeline
from tests.flows.small import ROWS, obliging, small_config, write_inputs
from tests.wire import Answer, Json, asked_choices, wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("prefect")]
TESTS = 4  # of each of two principles


def judging(passed: str = "fine") -> Callable[[Json], Answer]:
    """The obliging model, which as a judge of the constitution's tests prefers the reply with the word `passed`."""

    def reply(body: Json) -> Answer:
        text = body["messages"][-1]["content"]
        first = re.search(r"reply A>\n(.*?)\n</", text, re.S)
        if not asked_choices(body) or first is None or "poor" not in text:
            return obliging(body)
        p = 0.9 if passed in first[1] else 0.1
        return Answer("A" if p > 0.5 else "B", {"A": p, "B": 1 - p})

    return reply


def night_config(folder: Path, endpoint: str, **changes: Any) -> tuple[RunConfig, SourceConfig]:
    """A small run whose constitution has tests, and its inbox."""
    write_inputs(folder)
    document = yaml.safe_load((folder / "small.yaml").read_text())
    for principle in document["principles"][:2]:
        principle["tests"] = [
            {"prompt": f"Q {number}", "better": f"fine {number}", "worse": f"poor {number}"}
            for number in range(TESTS)
        ]
    (folder / "small.yaml").write_text(yaml.safe_dump(document))
    (folder / "new").mkdir()
    config = RunConfig.model_validate(small_config(folder, endpoint, **changes))
    return config, SourceConfig(path=str(folder / "new"), tags=("helpful",))


def arrive(inbox: SourceConfig, name: str, *texts: str) -> None:
    """A file of new prompts that lies in the inbox since an hour ago."""
    path = Path(str(inbox.path)) / name
    path.write_text("".join(json.dumps({"id": n, "prompt": text}) + "\n" for n, text in enumerate(texts)))
    os.utime(path, (time.time() - 3600, time.time() - 3600))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


async def test_nights_follow_each_other(tmp_path: Path) -> None:
    """Only what is new is asked; a version stands for each change, and none for a night without one."""
    async with wire_server(reply=judging()) as server:
        config, inbox = night_config(tmp_path, server.openai_url)
        await pipeline(config)  # by hand, before there was a schedule
        by_hand = server.calls
        first = await nightly(config, inbox)
        assert (first["version"], first["published"]) == ("0001", True)
        assert server.calls == by_hand + 2 * 2 * TESTS  # the tests, and not a prompt again
        again = await nightly(config, inbox)
        assert (again["version"], again["published"]) == ("0001", False)
        assert server.calls == by_hand + 2 * 2 * TESTS

        before = files(config.root / "versions" / "0001")
        old = len(server.requests)
        arrive(
            inbox, "monday.jsonl", "Tell me about 1 {principle}.", "Tell me of rivers.", "Tell me of hills."
        )
        second = await nightly(config, inbox)
        asked = [json.dumps(body["messages"]) for body in server.requests[old:]]
        assert asked and all("rivers" in text or "hills" in text for text in asked)
        assert second["inbox"]["prompts"] == 3  # one of them is the run's own, which only the run can tell
    changes = read_changes(config.root / "versions" / "0002")
    assert (second["version"], changes.previous) == ("0002", "0001")
    assert (changes.prompts.before, changes.prompts.after, changes.prompts.added) == (ROWS, ROWS + 2, 2)
    preference = changes.dataset["preference"]
    assert preference.removed == preference.relabelled == preference.rewritten == preference.p_moved == 0
    assert preference.added == preference.after - preference.before > 0
    by_source = changes.prompts.groups["source"]
    assert (by_source["inbox"].before, by_source["inbox"].after) == (0, 2)
    assert files(config.root / "versions" / "0001") == before
    latest = config.root / "versions" / "latest"
    rows: Any = load_dataset(str(latest), "preference", split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == preference.after and latest.readlink() == Path("0002")


async def test_a_judge_that_fails_the_tests_publishes_nothing(tmp_path: Path) -> None:
    """The run stops before a prompt is asked, names principles and counts, and the version before stays."""
    async with wire_server(reply=judging()) as server:
        config, inbox = night_config(tmp_path, server.openai_url)
        await nightly(config, inbox)
        before = files(config.root / "versions")
    arrive(inbox, "monday.jsonl", "Tell me of rivers.")
    async with wire_server(reply=judging("poor"), models=("other",)) as server:
        models = {
            "toy": {"backend": "vllm", "model": "other", "endpoint": server.openai_url, "max_concurrency": 8}
        }
        worse = RunConfig.model_validate(config.model_dump() | {"models": models})
        message = (
            rf"passes 0 of 8 tests, min_pass_rate is 0.9; no version .*: kind 0 of {TESTS}, honest 0 of 4"
        )
        with pytest.raises(JudgeError, match=message):
            await nightly(worse, inbox)
        assert server.calls == 2 * 2 * TESTS
        state = await nightly(worse, inbox, return_state=True)
        assert state.type == "FAILED" and "kind 0 of 4" in str(state.message)
        assert files(config.root / "versions") == before
        assert (await nightly(worse, inbox, min_pass_rate=None))["published"]


async def test_a_lower_bar_lets_some_tests_fail(tmp_path: Path) -> None:
    """A rate that is just reached is enough."""

    def half(body: Json) -> Answer:
        return judging("fine" if "Be kind." in body["messages"][-1]["content"] else "poor")(body)

    async with wire_server(reply=half) as server:
        config, inbox = night_config(tmp_path, server.openai_url)
        with pytest.raises(JudgeError, match=r"passes 4 of 8 tests.*failing: honest 0 of 4$"):
            await nightly(config, inbox, min_pass_rate=0.51)
        assert (await nightly(config, inbox, min_pass_rate=0.5))["published"]


async def test_an_edited_constitution_is_in_the_changes(tmp_path: Path) -> None:
    """Version and digest before and after stand beside the rows that it changed."""
    async with wire_server(reply=judging()) as server:
        config, inbox = night_config(tmp_path, server.openai_url)
        await nightly(config, inbox)
        text = (tmp_path / "small.yaml").read_text()
        edited = text.replace("Be honest.", "Be truthful.").replace("version: '1'", "version: '2'")
        assert edited.count("Be truthful.") == edited.count("version: '2'") == 1
        (tmp_path / "small.yaml").write_text(edited)
        found = (await nightly(config, inbox))["changes"]
    assert (found["previous_constitution"]["version"], found["constitution"]["version"]) == ("1", "2")
    assert found["previous_constitution"]["digest"] != found["constitution"]["digest"]
    assert found["prompts"]["added"] == found["prompts"]["removed"] == 0
    assert any(
        found["dataset"]["preference"][name] for name in ("rewritten", "p_moved", "relabelled", "added")
    )


async def test_one_nightly_run_at_a_time(tmp_path: Path) -> None:
    """A second one ends Failed with one line, and has touched nothing; so does one that meets another run."""
    async with wire_server(reply=judging()) as server:
        config, inbox = night_config(tmp_path, server.openai_url)
        config.root.mkdir(parents=True)
        for name, what in (("nightly.lock", "the nightly run of"), ("run.lock", "the run")):
            with held(config.root / name, f"{what} {config.root}"):
                state = await nightly(config, inbox, return_state=True)
            assert state.type == "FAILED"
            assert f"{what} {config.root} is in use by another run (pid {os.getpid()}" in str(state.message)
            assert "\n" not in str(state.message)
        assert not (config.root / "prompts").exists()


async def test_killed_anywhere_the_next_night_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a version, a version without its link, prompts taken and not run: all is mended, nothing is doubled."""
    async with wire_server(reply=judging()) as server:
        config, inbox = night_config(tmp_path, server.openai_url)
        arrive(inbox, "monday.jsonl", "Tell me of rivers.")
        with monkeypatch.context() as patch:
            patch.setattr("flows.nightly.pipeline", _stop)
            with pytest.raises(StoreError, match="stopped"):
                await nightly(config, inbox)
        with monkeypatch.context() as patch:
            patch.setattr("cai.export.versions.write_json", _stop_now)
            with pytest.raises(StoreError, match="stopped"):
                await nightly(config, inbox)
        assert versions_of(config.root) == [] and list((config.root / "versions").glob(".0001.*"))
        with monkeypatch.context() as patch:
            patch.setattr("cai.export.versions._link_latest", _stop_now)
            with pytest.raises(StoreError, match="stopped"):
                await nightly(config, inbox)
        calls = server.calls
        found = await nightly(config, inbox)
        assert server.calls == calls
    folder = config.root / "versions"
    assert (found["version"], found["published"]) == ("0001", False)
    assert sorted(path.name for path in folder.iterdir()) == ["0001", "latest"]
    assert (folder / "latest").readlink() == Path("0001")
    assert read_changes(folder / "0001").prompts.groups["source"]["inbox"].after == 1


async def _stop(*_: object) -> None:
    raise StoreError("stopped")


def _stop_now(*_: object) -> None:
    raise StoreError("stopped")


async def test_another_runs_rows_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run by hand came between the pipeline and the version, the version is not made."""
    async with wire_server(reply=judging()) as server:
        config, inbox = night_config(tmp_path, server.openai_url)

        async def disturbed(run: RunConfig) -> dict[str, Any]:
            done = await pipeline(run)
            await pipeline(run, ["judge.threshold=0.9"])
            return done

        monkeypatch.setattr("flows.nightly.pipeline", disturbed)
        with pytest.raises(StoreError, match="another run has changed the dataset in the meantime"):
            await nightly(config, inbox)
        assert versions_of(config.root) == []


async def test_a_run_without_its_working_folders_still_has_its_versions(tmp_path: Path) -> None:
    """Hard links: a version stays whole when everything that it was made from is gone."""
    async with wire_server(reply=judging()) as server:
        config, inbox = night_config(tmp_path, server.openai_url)
        await nightly(config, inbox)
    before = files(config.root / "versions")
    for name in ("dataset", "prompts"):
        shutil.rmtree(config.root / name)
    assert files(config.root / "versions") == before
    assert {
        "0001/preference/train.jsonl",
        "0001/sft/train.jsonl",
        "0001/README.md",
        "0001/config.json",
    } <= set(before)
