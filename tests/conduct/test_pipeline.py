"""The sequence of a run against the loopback server: rows do not depend on how it goes, and only edits are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai.conduct.stages import groups
from tests.conduct.here import pipeline
from tests.flows.small import obliging, published, small_run
from tests.wire import Fault, wire_server

pytestmark = pytest.mark.anyio


async def test_multi_turn_prompts_are_answered_in_their_context(tmp_path: Path) -> None:
    """The earlier turns reach the model and the dataset as they are."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await pipeline(config)
        assert any(
            [m["role"] for m in body["messages"]] == ["user", "assistant", "user"] for body in server.requests
        )
    assert b'"content":"Hello."' in (config.root / "dataset" / "preference" / "train.jsonl").read_bytes()


@pytest.mark.slow
async def test_faults_shards_and_concurrency_do_not_change_a_row(tmp_path: Path) -> None:
    """429, 500, resets and cut JSON are retried to the same rows; shards only divide them."""

    def lines(root: Path) -> list[bytes]:
        return sorted(
            line for name, body in published(root).items() if "/rows-" in name for line in body.splitlines()
        )

    kinds = [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=500), Fault(kind="reset")]
    found: list[list[bytes]] = []
    for index, changes in enumerate(({}, {"shards": 1}, {"shards": 5})):
        folder = tmp_path / str(index)
        folder.mkdir()
        faults = [] if index == 0 else [kinds[n // 7 % 3] if n % 7 == 3 else None for n in range(150)]
        async with wire_server(reply=obliging, faults=faults) as server:
            config = small_run(folder, server.openai_url, **changes)
            await pipeline(config)
        found.append(lines(config.root))
    assert found[0] == found[1] == found[2]


async def test_an_edited_principle_re_asks_only_its_rows(tmp_path: Path) -> None:
    """A reworded principle re-asks its critiques and verdicts; a comment and the description re-ask nothing."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await pipeline(config)
        calls = server.calls
        text = (tmp_path / "small.yaml").read_text()
        (tmp_path / "small.yaml").write_text(
            f"# a comment\n{text}".replace("version:", "description: new\nversion:")
        )
        await pipeline(config)
        assert server.calls == calls
        (tmp_path / "small.yaml").write_text(text.replace("Be honest.", "Be truthful."))
        await pipeline(config)
        asked = server.requests[calls:]
        assert 0 < len(asked) < calls
        assert any("VERDICT" in body["messages"][-1]["content"] for body in asked)
        assert any("Be truthful." in body["messages"][-1]["content"] for body in asked)
        assert not any("Be honest." in str(body["messages"]) for body in asked)


async def test_served_models_never_overlap(tmp_path: Path) -> None:
    """Stages of one managed server share it; another managed model waits for its turn; endpoints never wait."""
    managed = {"backend": "vllm", "model": "toy", "managed": {}}
    other = {**managed, "model": "other"}
    endpoint = {"backend": "vllm", "model": "third", "endpoint": "http://127.0.0.1:9/v1"}
    stages = ["generate", "revise", "judge"]

    def grouped(policy: dict[str, Any], judge: dict[str, Any]) -> list[list[str]]:
        models = {"toy": policy, "j": judge}
        config = small_run(tmp_path, "http://unused/v1", models=models, judge={"model": "j"})
        return groups(config, stages)

    assert grouped(managed, managed | {"model": "other"}) == [["generate", "revise"], ["judge"]]
    assert grouped(managed, endpoint) == [stages]
    assert grouped(endpoint, other) == [stages]
