"""Exactly so many pairs: how many prompts to draw for them, and where the dataset ends.

With `pairs.target` prompts are drawn in their order, in slices of 64; slice i is shard i, so journals stay valid
whatever the target and the concurrency are. The dataset is the first accepted pairs in prompt order, and the
demonstrations of the prompts up to there: what was drawn beyond that is in no file of it, so that it does not
matter how much was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from cai.config import RunConfig
from cai.errors import StoreError
from cai.given import read_given
from cai.intervals import rate
from cai.rows import Demonstration, Drop, Pair, Prompt, Row
from cai.shard import shard_paths
from cai.store import decode, explain, guard, read_rows, write_json

SLICE = 64  # prompts
FILE = "target.json"
Kept = TypeVar("Kept", Pair, Demonstration)


class Reached(Row):
    """Where the dataset of a run with a target ends: with the pair `last`, of `prompt`, in slice `shard`.

    `drawn`: prompts that were asked about, of `prompts` in all; `pairs`: accepted among them, `target` of them kept.
    """

    target: int
    pairs: int
    shard: int
    prompt: str
    last: str
    drawn: int
    prompts: int


def most_pairs(config: RunConfig) -> int:
    """The most pairs that one prompt can give."""
    samples = math.comb(config.policy.n, 2) if "samples" in config.pairs.sources else 0
    return samples + ("revision" in config.pairs.sources)


def in_flight(config: RunConfig) -> int:
    """Slices whose prompts are in work anyway while the policy is kept busy."""
    return math.ceil(config.models[config.policy.model].max_concurrency / SLICE)


def next_wave(missing: int, accepted: int, prompts: int, most: int, least: int) -> int:
    """How many slices to draw next: no more than are needed with near certainty, but `least`.

    `missing`, `accepted`: pairs; `prompts`: drawn so far, each of which gives `most` pairs at most. The yield to come
    is taken at the upper end of its 95 % interval (prompts as the units), so that a wave rarely overshoots.
    """
    if prompts == 0:
        return math.ceil(missing / most / SLICE)
    found = rate(accepted / most, prompts)
    assert found.high is not None
    return max(least, math.floor(missing / (found.high * most) / SLICE))


def slices(rows: Iterable[Prompt | Drop]) -> Iterator[list[Prompt | Drop]]:
    """Prompts by 64, each with the drops that stand before the next slice's first prompt."""
    held: list[Prompt | Drop] = []
    prompts = 0
    for row in rows:
        if isinstance(row, Prompt):
            if prompts == SLICE:
                yield held
                held, prompts = [], 0
            prompts += 1
        held.append(row)
    if held:
        yield held


def read_reached(config: RunConfig) -> Reached | None:
    """Where this run's dataset ends; None without a target. Raises StoreError where nobody has found out yet."""
    if config.pairs.target is None:
        return None
    path = config.root / FILE
    with guard(path):
        try:
            return decode(read_given(path), Reached)
        except ValueError as error:
            raise StoreError(
                f"{path}: not the end of a dataset ({explain(error)}); run the config again"
            ) from error


def write_reached(config: RunConfig, accepted: Iterable[tuple[int, Pair]], prompts: int) -> Reached | None:
    """Find and store where the dataset ends. `accepted`: every pair, in order, with its shard; `prompts`: in all.

    None, and nothing stored, where there are not enough.
    """
    target, count = config.pairs.target, 0
    end: tuple[int, Pair] | None = None
    for count, found in enumerate(accepted, 1):
        if count == target:
            end = found
    if target is None or end is None:
        return None
    shard, last = end
    drawn = sum(1 for number in range(config.shards) for _ in _prompt_ids(config.root, number))
    reached = Reached(
        target=target, pairs=count, shard=shard, prompt=last.id.split("/", 1)[0], last=last.id,
        drawn=drawn, prompts=prompts,
    )  # fmt: skip
    write_json(config.root / FILE, reached)
    return reached


def pairs_within(reached: Reached | None, shard: int, rows: Iterable[Pair | Drop]) -> Iterator[Pair | Drop]:
    """The rows of a shard up to the last pair of the dataset; pairs behind it are drops `beyond_target`."""
    over = reached is not None and shard > reached.shard
    for row in rows:
        yield _beyond(row, "pairs") if over and isinstance(row, Pair) else row
        over = over or (reached is not None and row.id == reached.last)


def demonstrations_within(
    config: RunConfig, reached: Reached | None, shard: int, rows: Iterable[Demonstration | Drop]
) -> Iterator[Demonstration | Drop]:
    """The rows of a shard for prompts up to the last pair's; those for later ones are drops `beyond_target`."""
    if reached is None or shard < reached.shard:
        yield from rows
        return
    within: set[str] = set()
    if shard == reached.shard:
        for prompt in _prompt_ids(config.root, shard):
            within.add(prompt)
            if prompt == reached.prompt:
                break
    for row in rows:
        over = row.id.split("/", 1)[0] not in within
        yield _beyond(row, "demonstrations") if over and isinstance(row, Demonstration) else row


def _beyond(row: Pair | Demonstration, stage: str) -> Drop:
    return Drop(id=row.id, stage=stage, reason="beyond_target")


def _prompt_ids(root: Path, shard: int) -> Iterator[str]:
    return (prompt.id for prompt in read_rows(shard_paths(root, "prompts", shard).rows, Prompt))


def forget_shards(root: Path, shards: int) -> None:
    """Remove what stages published for shards from `shards` on; their journals stay, so nothing is lost.

    Held-out prompts and labelled pairs have shard 0 only, and are never touched.
    """
    for manifest in root.glob("*/manifest-*.json"):
        number = int(manifest.stem.rpartition("-")[2])
        if number >= max(1, shards):
            paths = shard_paths(root, manifest.parent.name, number)
            for path in (
                paths.manifest,
                paths.rows,
                paths.drops,
            ):  # the manifest first: without it nothing counts
                path.unlink(missing_ok=True)
