"""What the hot path must never change: journal keys, published bytes, calls in flight; nor how an engine is reached."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cai.config import CriticConfig, JudgeConfig, ModelConfig, PolicyConfig
from cai.constitution import Constitution, Principle
from cai.judge.label import JudgeRule
from cai.models import open_model
from cai.models.base import Completion, Request, Usage
from cai.prompts import Templates, critique_messages, revise_messages
from cai.rows import Comparison, Message, Prompt, Reply, Revision
from cai.shard.run import Step, run_shard, shard_paths
from cai.stages.generate import generate_step
from cai.stages.judge import comparisons, judge_step
from cai.stages.revise import revise_step
from cai.store import read_rows

pytestmark = pytest.mark.anyio

TEMPLATES = {
    "turn": "<{fence} {role}>{text}",
    "critique": "{principle}\n{conversation}\ncritique {fence}",
    "revise": "{principle}\n{conversation}\n{critique}\nrevise {fence}",
    "compare": "{principle}\n{conversation}\nA {a}\nB {b}\ncompare {fence}",
}
SHOT = {
    "conversation": "Hello?",
    "reply": "Go away.",
    "critique": "It is rude.",
    "violated": True,
    "revision": "Hi.",
}
CONSTITUTION = Constitution.model_validate(
    {
        "name": "two",
        "version": "1",
        "principles": [
            {"id": "kind", "statement": "Be kind.", "examples": [SHOT]},
            {"id": "brief", "statement": "Be brief.", "revision": "Say it in few words.", "weight": 2.0},
        ],
    }
)
SHA256 = {  # of the rows that the first release publishes; the next ones have to publish the same
    "generate": "59c09e435e4ea6621072858cffa14193f5c3ebe6d8668e6291c937363dc1d3fc",
    "revise": "e9c2f94ae6dcee33d1d6a00a9ce695864902c46fcce90373f80590802a7dce2c",
    "judge": "b6617bafebaa5fd21c973ab4fb4e8543fe59c8b75e74e24b1e9dd8e848bb2e13",
}


class Fixed:
    """Answers each request by what it asks, in an order that changes with every run of the event loop."""

    identity = "fixed"

    async def complete(self, request: Request) -> Completion:
        """A critique, a revision, a verdict or a reply."""
        asked, digest = request.messages[-1].content, int(request.key(""), 16)
        for _ in range(digest % 5):
            await asyncio.sleep(0)
        text, probs = f"reply é {digest % 7}", None
        if "\ncritique " in asked:
            text = f"words\nVERDICT: {'breaks' if digest % 3 else 'keeps'}"
        elif "\nrevise " in asked:
            text = f"better {digest % 11}"
        elif request.choices:
            p = (digest % 100) / 100
            text, probs = "A" if p > 0.5 else "B", {"A": p, "B": 1 - p}
        method = "logprobs" if request.choices else None
        usage = Usage(prompt_tokens=5, completion_tokens=2)
        return Completion(
            text=text, finish_reason="stop", usage=usage, model="m", choice_probs=probs, choice_method=method
        )

    async def close(self) -> None:
        """Nothing to close."""


async def publish(root: Path, stage: str, rows: Iterable[Any], step: Step[Any], limit: int) -> Path:
    """Run one stage and return the file of its rows."""
    await run_shard(
        stage=stage, shard=0, root=root, rows=rows, step=step, model=Fixed(), inputs_digest="d", limit=limit
    )
    return shard_paths(root, stage, 0).rows


@pytest.mark.parametrize("limit", [1, 7])
async def test_published_bytes_are_those_of_the_first_release(tmp_path: Path, limit: int) -> None:
    """Ids, seeds, draws, rendered prompts, keys and the JSON of every row are as they were, whatever runs beside."""
    prompts = [
        Prompt(
            id=f"p{i}", messages=(Message(role="user", content=f"question {i} ü"),), tags=("t",), source="s"
        )
        for i in range(12)
    ]
    policy, critic, judge = (
        PolicyConfig(model="m", n=2),
        CriticConfig(model="m", rounds=2),
        JudgeConfig(model="m"),
    )
    files: dict[str, Path] = {}
    step: Step[Any] = generate_step(policy, seed=3, stage="generate")
    files["generate"] = await publish(tmp_path, "generate", prompts, step, limit)
    replies = list(read_rows(files["generate"], Reply))
    step = revise_step(critic, CONSTITUTION, TEMPLATES, seed=3)
    firsts = [reply for reply in replies if reply.sample == 0]
    files["revise"] = await publish(tmp_path, "revise", firsts, step, limit)
    revisions = read_rows(files["revise"], Revision)
    rows: list[Comparison] = list(comparisons(replies, revisions, ["samples", "revision"]))
    step = judge_step(judge, "m", JudgeRule(), CONSTITUTION, TEMPLATES, seed=3, stage="judge")
    files["judge"] = await publish(tmp_path, "judge", rows, step, limit)
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == SHA256


def test_keys_are_those_of_the_first_release() -> None:
    """A journal of an earlier release must still answer: the key of a request is part of the file format."""
    messages = (Message(role="system", content="S"), Message(role="user", content='Ü\n"x" 😀'))
    requests = [
        Request(messages=messages, max_tokens=5),
        Request(messages=messages, max_tokens=5, temperature=0.7, top_p=1.0, seed=2**63 - 1, stop=("a", "b")),
        Request(messages=messages, max_tokens=1, choices=("A", "B"), method="samples", attempt=2),
        Request(messages=messages, max_tokens=9, schema_={"b": [1, None], "a": {"z": 1.5}}),
    ]
    assert [request.key("vllm:m") for request in requests] == [
        "234b06bb6cc82fbfade4f9a275092c8f",
        "da0a617328054c3553b1be2d287675e9",
        "8af585bd278e483facd32b9a1adba419",
        "f91e776684b1b63445a5a553dbc6ffc2",
    ]


def test_few_shot_messages_are_those_of_their_principle() -> None:
    """Shots are rendered once for all rows, but anew for another wording, other examples or another template."""
    kind, turns = CONSTITUTION.principles[0], (Message(role="user", content="Q"),)
    for use in ("critique", "revise"):

        def messages(principle: Principle, templates: Templates, use: str = use) -> tuple[Message, ...]:
            if use == "critique":
                return critique_messages(templates, principle, turns, "R")
            return revise_messages(templates, principle, turns, "R", "C")

        first = messages(kind, TEMPLATES)
        assert len(first) == 3 and messages(kind, TEMPLATES) == first
        changed = [
            messages(kind.model_copy(update={"statement": "Be very kind."}), TEMPLATES),
            messages(
                kind.model_copy(update={"examples": (kind.examples[0].model_copy(update={"reply": "No."}),)}),
                TEMPLATES,
            ),
            messages(kind, {name: f"{text}!" for name, text in TEMPLATES.items()}),
        ]
        assert all(other[0] != first[0] for other in changed)
        assert len(messages(CONSTITUTION.principles[1], TEMPLATES)) == 1


@pytest.mark.parametrize(("no_proxy", "reached"), [("", True), ("engine.invalid", False)])
async def test_an_engine_elsewhere_is_asked_through_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, reached: bool
) -> None:
    """`http_proxy` and `no_proxy` hold for an engine on another machine, though they are read only once."""
    lines: list[bytes] = []
    body = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).splitlines()[0])
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", no_proxy)
        endpoint = "http://engine.invalid:8000/v1"
        model = open_model("m", ModelConfig(backend="vllm", model="m", endpoint=endpoint, deadline_s=0.5))
        request = Request(messages=(Message(role="user", content="Q"),), max_tokens=5)
        try:
            reply = await asyncio.gather(model.complete(request), return_exceptions=True)
        finally:
            await model.close()
    assert bool(lines) is reached and isinstance(reply[0], Completion) is reached
    if reached:
        assert lines[0].startswith(b"POST http://engine.invalid:8000/v1/chat/completions ")
