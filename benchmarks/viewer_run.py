"""A run made up for the viewer: the files of a real one, in the same bytes a row, without a model behind them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import orjson

from cai.config import RunConfig
from cai.constitution import load_constitution
from cai.store import write_json

Json = dict[str, Any]
PRINCIPLES = tuple(f"principle-{number:02d}" for number in range(20))
TAGS = ("helpful", "harmful", "overrefusal", "honesty", "privacy")
WORDS = (
    "answer", "help", "kind", "reader", "plan", "garden", "letter", "bridge", "market", "doctor", "recipe", "travel",
    "winter", "music", "simple", "honest", "careful", "explain", "reason", "choose", "gentle", "number", "window",
    "story", "friend", "listen", "promise", "system", "water", "paper", "learn", "measure",
)  # fmt: skip
RARE = "zircon"  # in one reply of ten thousand
STATES = (
    ("labelled",) * 50
    + ("inconsistent",) * 35
    + ("below_threshold",) * 10
    + ("tie",) * 3
    + ("unparsed", "refused")
)


def make_run(folder: Path, judgments: int, shards: int, workers: int) -> Path:
    """A finished run with so many judgments, and half as many prompts; gives its folder."""
    (folder / "made.yaml").write_text(
        "schema: 1\nname: made\nversion: '1'\nprinciples:\n"
        + "".join(f"  - {{id: {name}, statement: Be kind.}}\n" for name in PRINCIPLES)
    )
    config = RunConfig.model_validate(
        {
            "name": "made", "outputs": str(folder), "constitution": str(folder / "made.yaml"), "shards": shards,
            "prompts": [{"path": str(folder / "prompts.jsonl")}],
            "models": {"toy": {"backend": "vllm", "model": "toy", "endpoint": "http://unused/v1"}},
            "policy": {"model": "toy", "n": 2, "sampling": {"max_tokens": 64}},
            "critic": {"model": "toy", "rounds": 2, "sampling": {"max_tokens": 64}},
            "judge": {"model": "toy"},
        }
    )  # fmt: skip
    config.root.mkdir()
    write_json(config.root / "config.json", config)
    write_json(config.root / "constitution.json", load_constitution(config.constitution))
    for stage in ("prompts", "generate", "revise", "judge", "pairs", "demonstrations"):
        (config.root / stage).mkdir()
    prompts = judgments // 2
    parts = [(config.root, shard, range(shard, prompts, shards)) for shard in range(shards)]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_write_shard, *zip(*parts, strict=True)))
    return config.root


def _write_shard(root: Path, shard: int, numbers: range) -> None:
    rng = Random(shard)
    sentences = [" ".join(rng.choices(WORDS, k=12)).capitalize() + "." for _ in range(2000)]
    names = ("prompts", "generate", "revise", "judge", "pairs", "demonstrations")
    files = {name: (root / name / f"rows-{shard:05d}.jsonl").open("wb", 1 << 20) for name in names}
    files["drops"] = (root / "pairs" / f"drops-{shard:05d}.jsonl").open("wb", 1 << 20)
    for number in numbers:
        for name, row in _rows(number, rng, sentences):
            files[name].write(orjson.dumps(row) + b"\n")
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
        file.close()


def _rows(number: int, rng: Random, sentences: list[str]) -> Iterator[tuple[str, Json]]:
    """All rows that come of one prompt."""

    def text() -> str:
        words = " ".join(rng.choices(sentences, k=3))
        return f"{words} {RARE}" if rng.random() < 1e-4 else words

    id_ = f"p{number:07d}"
    prompt = {
        "id": id_,
        "messages": [{"role": "user", "content": rng.choice(sentences)}],
        "tags": [TAGS[number % 5]],
        "source": f"source-{number % 3}",
    }
    yield "prompts", prompt
    replies = [
        {"id": f"{id_}/r{sample}", "prompt": prompt, "sample": sample, "text": text(), "finish_reason": "stop",
         "model": "toy", "calls": [_key(rng)]}
        for sample in range(2)
    ]  # fmt: skip
    for reply in replies:
        yield "generate", reply
    met = rng.sample(PRINCIPLES, 2)
    rounds = [
        {"round": at, "principle": name, "principle_digest": _key(rng), "critique": rng.choice(sentences),
         "violated": True, "revision": text(), "calls": [_key(rng), _key(rng)]}
        for at, name in enumerate(met)
    ]  # fmt: skip
    revision = {"id": f"{id_}/r0/v", "reply": replies[0], "rounds": rounds, "final": rounds[-1]["revision"]}
    yield "revise", revision
    one, two = ({"id": reply["id"], "kind": "reply", "text": reply["text"]} for reply in replies)
    other = {"id": revision["id"], "kind": "revision", "text": revision["final"]}
    for b in (two, other):
        yield from _judged(prompt, one, b, rng)
    completion = [{"role": "assistant", "content": revision["final"]}]
    yield "demonstrations", {
        "id": revision["id"], "prompt": prompt["messages"], "completion": completion, "source": "revision",
        "tags": prompt["tags"], "lineage": revision["id"],
    }  # fmt: skip


def _judged(prompt: Json, a: Json, b: Json, rng: Random) -> Iterator[tuple[str, Json]]:
    state, p = rng.choice(STATES), rng.random()
    met = rng.sample(PRINCIPLES, 2)
    verdicts = [
        {"judge": "toy" if rng.random() < 0.9 else "j2", "principle": name, "order": order, "p": p,
         "method": "logprobs", "failure": None, "calls": [_key(rng)]}
        for name in met
        for order in ("ab", "ba")
    ]  # fmt: skip
    id_ = f"{a['id']}~{b['id']}"
    yield "judge", {
        "id": id_, "prompt": prompt, "a": a, "b": b, "verdicts": verdicts, "p": p, "p_raw": p, "state": state
    }  # fmt: skip
    if state != "labelled":
        yield "drops", {"id": id_, "stage": "pairs", "reason": state, "detail": f"p {p}"}
        return
    better, worse = (a, b) if p > 0.5 else (b, a)
    yield "pairs", {
        "id": id_, "prompt": prompt["messages"], "chosen": [{"role": "assistant", "content": better["text"]}],
        "rejected": [{"role": "assistant", "content": worse["text"]}], "p": max(p, 1 - p), "margin": 1.0,
        "source": "samples" if b["kind"] == "reply" else "revision", "principles": met, "tags": prompt["tags"],
        "lineage": id_,
    }  # fmt: skip


def _key(rng: Random) -> str:
    return f"{rng.getrandbits(128):032x}"
