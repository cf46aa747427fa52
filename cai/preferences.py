"""From a round's samples to what DPO learns from: which prompts are asked, which pairs come of it, which are replayed.

Each function gives the rows of one shard, read as they are needed, with the stages that they are made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from cai.config import RunConfig
from cai.rounds import asked_in, is_replayed, plays_itself, round_of, rounds_of
from cai.rows import Demonstration, Drop, Judgment, Pair, Prompt, Reply
from cai.shard import shard_paths
from cai.stages.pairs import pairs
from cai.stages.self_play import self_play, shown
from cai.store import Model, read_rows


def prompts_asked(config: RunConfig, stage: str, shard: int) -> tuple[Iterable[Prompt], tuple[str, ...]]:
    """The prompts that a stage of samples asks; in self-play those that have a demonstration."""
    prompts, one = _rows(config, "prompts", shard, Prompt), round_of(config, stage)
    if one is None:
        return prompts, ("prompts",)
    origins: tuple[str, ...] = ("prompts",)
    if plays_itself(config):
        prompts = shown(prompts, _rows(config, "demonstrations", shard, Demonstration))
        origins = ("prompts", "demonstrations")
    return (asked_in(prompt, one) for prompt in prompts), origins


def pairs_of(config: RunConfig, stage: str, shard: int) -> tuple[Iterable[Pair | Drop], tuple[str, ...]]:
    """The preference pairs of `pairs`, `dpo-1-pairs` …, and why other judgments or samples give none."""
    one = round_of(config, stage)
    if one is not None and plays_itself(config):
        replies = _rows(config, one.generate, shard, Reply)
        better = _rows(config, "demonstrations", shard, Demonstration)
        found: Iterable[Pair | Drop] = self_play(replies, better, one.mark)
        origins: tuple[str, ...] = (one.generate, "demonstrations")
    else:
        judged = one.judge if one else "judge"
        judgments: Iterable[Judgment] = _rows(config, judged, shard, Judgment)
        if config.recipe == "direct" and "revision" not in config.pairs.sources:
            judgments = (judgment for judgment in judgments if judgment.b.kind == "reply")
        found, origins = pairs(judgments, config.judge.clamp), (judged,)
    if stage != "pairs":
        found = (row if isinstance(row, Pair) else row.model_copy(update={"stage": stage}) for row in found)
    return found, origins


def replayed(config: RunConfig, stage: str, shard: int) -> tuple[Iterable[Pair | Drop], tuple[str, ...]]:
    """The pairs of earlier rounds that a round learns from again, and why the others are not.

    One that was not drawn is `not_drawn`; one whose two texts a later round has as well, either way round, is
    `repeated`: the newer label holds.
    """
    one = round_of(config, stage)
    assert one is not None and config.dpo is not None
    until = [earlier.pairs for earlier in rounds_of(config)[: one.number]]
    newest_first = tuple(reversed(until))
    return _replayed(config, stage, shard, one.number, newest_first), newest_first


def _replayed(
    config: RunConfig, stage: str, shard: int, number: int, newest_first: Sequence[str]
) -> Iterator[Pair | Drop]:
    """Holds 16 bytes for each pair of the shard that is learned from."""
    assert config.dpo is not None
    seen = {_texts(pair) for pair in _rows(config, newest_first[0], shard, Pair)}
    for earlier in newest_first[1:]:
        for pair in _rows(config, earlier, shard, Pair):
            if not is_replayed(config.seed, pair.id, number, config.dpo.replay):
                yield Drop(id=pair.id, stage=stage, reason="not_drawn")
            elif (texts := _texts(pair)) in seen:
                yield Drop(id=pair.id, stage=stage, reason="repeated")
            else:
                seen.add(texts)
                yield pair


def _texts(pair: Pair) -> bytes:
    """What two pairs share that say something about the same two replies."""
    turns = [f"{turn.role}:{turn.content}" for turn in pair.prompt]
    both = sorted(side[0].content for side in (pair.chosen, pair.rejected))
    body = "\x1f".join((*turns, *both)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(body, digest_size=16).digest()


def _rows(config: RunConfig, stage: str, shard: int, row: type[Model]) -> Iterator[Model]:
    return read_rows(shard_paths(config.root, stage, shard).rows, row)
