"""Which prompts a try shows: given ones, or the few of many that meet the principles one wants to see.

Everything is decided by ids and the seed, so the same file, config and edit always show the same prompts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from cai.config import RunConfig
from cai.constitution import Constitution, Use, draw
from cai.constitution.principle import content_digest
from cai.errors import ConfigError
from cai.given import open_given
from cai.rows import Message, Prompt, Reply, Revision, Row
from cai.sources import read_prompts
from cai.store import decode, guard, read_rows

SCANNED = 2000  # prompts looked at; a run's are spread over its shards by hash, so these are a fair sample
Published = TypeVar("Published", bound=Row)


class Drawn(NamedTuple):
    """A prompt, and what a run made of it: its replies, and the principles that it found the first one to break.

    Both are empty for a prompt that is still to be answered.
    """

    prompt: Prompt
    replies: tuple[Reply, ...] = ()
    broken: frozenset[str] = frozenset()


def given_prompts(texts: Sequence[str], constitution: Constitution) -> list[Drawn]:
    """Prompts of the user's own, under every tag, so that each principle may apply. Raises ConfigError for a blank."""
    if any(not text.strip() for text in texts):
        raise ConfigError("--prompt: is empty; write what the user asks")
    tags = sorted({tag for principle in constitution.principles for tag in principle.applies_to})
    return [
        Drawn(
            Prompt(
                id=content_digest(text)[:24],
                messages=(Message(role="user", content=text),),
                tags=tuple(tags),
                source="given",
            )
        )
        for text in dict.fromkeys(text.strip() for text in texts)
    ]


def source_prompts(config: RunConfig) -> list[Drawn]:
    """The first prompts of the config's own sources."""
    rows = (row for row in read_prompts(config.prompts) if isinstance(row, Prompt))
    return [Drawn(row) for row in itertools.islice(rows, SCANNED)]


def run_prompts(run: Path) -> list[Drawn]:
    """The first prompts of a run, with the replies that it has given. Raises ConfigError where there are none."""
    broken = {
        row.reply.prompt.id: frozenset(done.principle for done in row.rounds if done.violated)
        for row in itertools.islice(_rows(run, "revise", Revision), SCANNED)
    }
    found: list[Drawn] = []
    groups = itertools.groupby(_rows(run, "generate", Reply), key=lambda reply: reply.prompt.id)
    for name, group in itertools.islice(groups, SCANNED):
        replies = tuple(group)
        if replies[0].sample == 0:  # the one that a run revises
            found.append(Drawn(replies[0].prompt, replies, broken.get(name, frozenset())))
    if not found:
        raise ConfigError(f"--run {run}: it has no replies to revise yet; let it go on, or leave --run out")
    return found


def run_prompt(run: Path, prompt_id: str) -> Drawn:
    """One prompt of a run with the replies that it has given, wherever it lies. Raises ConfigError."""
    written = [
        json.dumps(prompt_id, ensure_ascii=plain).encode("utf-8", "replace") for plain in (False, True)
    ]
    for path in sorted((run / "generate").glob("rows-*.jsonl")):
        with guard(path), open_given(path) as file:
            lines = [line for line in file if any(name in line for name in written)]
        replies = [reply for reply in (decode(line, Reply) for line in lines) if reply.prompt.id == prompt_id]
        if replies and replies[0].sample == 0:
            return Drawn(replies[0].prompt, tuple(replies))
    raise ConfigError(
        f"--row {prompt_id}: no prompt of {run} with a reply; give the id of one, as in its prompts"
    )


def _rows(run: Path, stage: str, row: type[Published]) -> Iterator[Published]:
    """The rows of a run's stage, from the shards that are done."""
    for path in sorted((run / stage).glob("rows-*.jsonl")):
        yield from read_rows(path, row)


def choose(
    config: RunConfig,
    drawn: Sequence[Drawn],
    versions: Sequence[Constitution],
    targets: Sequence[str],
    n: int,
    samples: bool,
) -> list[Drawn]:
    """`n` of the prompts: in turn for each target principle the one that broke it or else meets it first, then any.

    `versions`: whose draws count, the first one's before the others'. `samples`: two replies are judged
    as well, which draws principles of its own.
    """
    met = {one.prompt.id: principles_met(config, one.prompt, versions, samples) for one in drawn}
    left = sorted(drawn, key=lambda one: _rank(config.seed, one.prompt.id))
    found: list[Drawn] = []
    for target in itertools.islice(itertools.cycle(targets), n if targets else 0):
        meeting = [one for one in left if target in met[one.prompt.id]]
        if meeting:
            best = min(meeting, key=lambda one: (target not in one.broken, met[one.prompt.id][target]))
            found.append(best)
            left.remove(best)
    return [*found, *left[: n - len(found)]]


def principles_met(
    config: RunConfig, prompt: Prompt, versions: Iterable[Constitution], samples: bool
) -> dict[str, tuple[int, int]]:
    """The principles that a prompt's first reply, its revision and its samples draw, each with where it shows best.

    That is: in which of the versions, counted from 0, and how early, critiques before judgments.
    """
    reply = f"{prompt.id}/r0"
    draws: list[tuple[Use, str, int]] = [
        ("revise", reply, config.critic.rounds),
        ("judge", f"{reply}~{reply}/v", config.judge.principles),
    ]
    if samples:
        draws.append(("judge", f"{reply}~{prompt.id}/r1", config.judge.principles))
    found: dict[str, tuple[int, int]] = {}
    for number, version in enumerate(versions):
        for use, row_id, k in draws:
            drawn = draw(version, seed=config.seed, row_id=row_id, use=use, tags=prompt.tags, k=k)
            for place, principle in enumerate(drawn, 0 if use == "revise" else config.critic.rounds):
                found[principle.id] = min((number, place), found.get(principle.id, (number, place)))
    return found


def _rank(seed: int, prompt_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{prompt_id}".encode(), digest_size=8).digest()
