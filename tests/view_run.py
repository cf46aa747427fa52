"""The folder of a small judged run, written as a run publishes it, and a viewer of it on a port of this machine."""

from __future__ import annotations

import html
import json
import random
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from cai.config_file import load_config
from cai.constitution import load_constitution
from cai.publish import publish_rows
from cai.rows import Candidate, Judgment, Message, Prompt, Reply, Revision, RevisionRound, Verdict
from cai.store import write_json
from cai.view.app import create_app
from cai.view.serve import listen
from cai.view.state import Settings
from tests.small_cli import config_file

PRINCIPLES = {"kind": "Be kind.", "honest": "Be honest."}
CONSTITUTION = """\
# What a small assistant does.
schema: 1
name: small
version: "1"  # of the content
principles:
  # the first one
  - id: kind
    statement: Be kind.
    critique: Look for unkind words.
  - id: honest
    statement: Be honest.  # always
    weight: 2
"""


def judgment(number: int, p: float | None = 0.9, threshold: float = 0.7, note: str = "") -> Judgment:
    """A reply against its revision, judged under both principles; `p`: that the reply is better."""
    name, text = f"p{number}", f"Tell me about {number}.{note}"
    verdicts = [
        Verdict(judge="toy", principle=principle, order=order, p=p, method="logprobs", calls=(),
                failure="unparsed" if p is None else None)
        for principle in PRINCIPLES
        for order in ("ab", "ba")
    ]  # fmt: skip
    sure = p is not None and max(p, 1 - p) >= threshold
    return Judgment(
        id=f"{name}/r0~{name}/r0/v",
        prompt=Prompt(id=name, messages=(Message(role="user", content=text),), tags=("one",), source="file"),
        a=Candidate(id=f"{name}/r0", kind="reply", text=f"Reply to {number}."),
        b=Candidate(id=f"{name}/r0/v", kind="revision", text=f"A better reply to {number}."),
        verdicts=tuple(verdicts),
        p=p,
        p_raw=p,
        state="labelled" if sure else "unparsed" if p is None else "below_threshold",
    )


def judgments(n: int, seed: int = 0) -> list[Judgment]:
    """Judgments of all kinds: sure ones on either side, unsure ones, unread ones."""
    rng = random.Random(seed)
    return [judgment(i, rng.choice([0.05, 0.1, 0.9, 0.97, 0.6, 0.45, None])) for i in range(n)]


def judged_run(
    folder: Path, rows: Sequence[Judgment], endpoint: str = "http://127.0.0.1:9", **changes: Any
) -> Path:
    """A run with these judgments in two shards, and the replies and revisions that they are about."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edited.yaml").write_text(CONSTITUTION)
    config = load_config(config_file(folder, endpoint, shards=2, **changes))
    root = config.root
    root.mkdir(parents=True, exist_ok=True)
    constitution = load_constitution(config.constitution)
    write_json(root / "config.json", config)
    write_json(root / "constitution.json", constitution)
    write_json(root / "summary.json", {"state": "unfinished"})
    for shard in range(2):
        publish_judged(root, shard, rows[shard::2])
    return root


def publish_judged(root: Path, shard: int, rows: Sequence[Judgment]) -> None:
    """Publish the judgments of a shard with what they are about."""
    digest = json.dumps([row.model_dump(mode="json") for row in rows])
    replies = [_reply(row) for row in rows]
    publish_rows(root, "generate", shard, digest, replies)
    revisions = [_revision(row, reply) for row, reply in zip(rows, replies, strict=True)]
    publish_rows(root, "revise", shard, digest, revisions)
    publish_rows(root, "judge", shard, digest, rows)


def _reply(row: Judgment) -> Reply:
    return Reply(
        id=row.a.id, prompt=row.prompt, sample=0, text=row.a.text, finish_reason="stop", model="toy", calls=()
    )


def _revision(row: Judgment, reply: Reply) -> Revision:
    done = RevisionRound(
        round=0, principle="kind", principle_digest="0" * 32, critique="Not kind.", violated=True,
        revision=row.b.text, calls=(),
    )  # fmt: skip
    return Revision(id=row.b.id, reply=reply, rounds=(done,), final=row.b.text)


@contextmanager
def viewer(run: Path) -> Iterator[httpx.Client]:
    """A real viewer of a run on a free port, and a client that has its token and comes from its pages."""
    with closing(listen("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        app = create_app(Settings(run, None, "secret", "127.0.0.1", port))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            assert app.state.view.index.ready.wait(60)
            address = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=address, headers={"Origin": address}, timeout=60) as client:
                client.get("/?token=secret")
                yield client
        finally:
            server.should_exit = True
            thread.join()


def fields_of(page: str, action: str) -> list[dict[str, str]]:
    """The forms of a page that are sent to `action`, each with what its fields hold."""
    found = []
    for form in re.findall(rf'<form method="post" action="{re.escape(action)}".*?</form>', page, re.S):
        inputs = re.findall(r'<input [^>]*name="([^"]*)"[^>]*value="([^"]*)"', form)
        areas = re.findall(r'<textarea [^>]*name="([^"]*)"[^>]*>\n?(.*?)</textarea>', form, re.S)
        found.append({name: html.unescape(value) for name, value in [*inputs, *areas]})
    return found
