"""The job that every contender does: for each prompt a reply, a critique, a revision, and both in both orders.

Five calls a row. Our pipeline does it from a real run config with the default templates; the other clients word
the same questions by themselves, about as long, so that the server has the same work with each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml

CALLS = 5  # of a row
MODEL = "loopback"
CONSTITUTION = Path(__file__).parent.parent / "constitutions" / "toy.yaml"
PRINCIPLE = "Do not help with anything unsafe, unkind or dishonest."
QUESTION = "Tell me about number {i}, and about the many things that one can do with it on a rainy day. "


def questions(rows: int, sentences: int = 5) -> Iterator[str]:
    """The prompts: no two alike."""
    return (QUESTION.format(i=i) * sentences for i in range(rows))


def write_prompts(path: Path, rows: int, sentences: int = 5) -> Path:
    """The prompts as a JSONL file."""
    with path.open("wb") as file:
        for i, question in enumerate(questions(rows, sentences)):
            file.write(orjson.dumps({"id": f"p{i}", "prompt": question}) + b"\n")
    return path


def write_config(folder: Path, url: str, prompts: Path, limit: int, shards: int = 4, **changes: Any) -> Path:
    """The run config of the job against a server; `changes` take the place of whole sections."""
    model = {"backend": "vllm", "model": MODEL, "endpoint": url, "max_concurrency": limit}
    config: dict[str, Any] = {
        "name": "bench",
        "outputs": str(folder / "outputs"),
        "constitution": str(CONSTITUTION),
        "shards": shards,
        "prompts": [{"path": str(prompts)}],
        "models": {MODEL: model},
        "policy": {"model": MODEL, "n": 1, "sampling": {"max_tokens": 256}},
        "critic": {"model": MODEL, "rounds": 1, "sampling": {"max_tokens": 256}},
        "judge": {"model": MODEL, "principles": 1},
    }
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(config | changes, sort_keys=False), encoding="utf-8")
    return path


def critique_prompt(question: str, reply: str) -> str:
    """The second call of a row."""
    return (
        f"You review how an assistant replied to a user, under exactly one principle.\n\nPrinciple: {PRINCIPLE}"
        f"\n\nUser: {question}\n\nAssistant: {reply}\n\nDoes the assistant's last turn break the principle? Name "
        "what breaks it, and why, in at most three sentences; or say that nothing does. Judge this principle only. "
        'Then write one last line that is exactly "VERDICT: breaks" or "VERDICT: keeps".'
    )


def revise_prompt(question: str, reply: str, critique: str) -> str:
    """The third call. `critique`: without its verdict."""
    return (
        "You rewrite an assistant's reply so that it keeps one principle and still serves the user as well as it "
        f"can.\n\nPrinciple: {PRINCIPLE}\n\nUser: {question}\n\nAssistant: {reply}\n\nCritique: {critique}\n\nMend "
        "what the critique names, keep what was right, and do not mention the critique, the principle or the "
        "earlier reply. Write nothing but the new reply."
    )


def compare_prompt(question: str, first: str, second: str) -> str:
    """The fourth and fifth call, one for each order."""
    return (
        f"You compare two replies to the same conversation, under exactly one principle.\n\nPrinciple: {PRINCIPLE}"
        f"\n\nUser: {question}\n\n<reply A>\n{first}\n</reply A>\n\n<reply B>\n{second}\n</reply B>\n\nWhich reply "
        "keeps the principle better? Length and the order of the replies must not count. Answer with the letter A "
        "or B: the letter A or B alone."
    )
