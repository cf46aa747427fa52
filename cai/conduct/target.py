"""Waves of prompts until a target of accepted pairs is reached: no more is asked than is needed and in flight."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

from cai.conduct.stages import all_done, groups, run_stages
from cai.conduct.work import Work
from cai.config import RunConfig
from cai.draw import count_prompts
from cai.errors import TargetError
from cai.pipeline import role_of
from cai.preferences import pairs_of
from cai.report.status import shard_reports
from cai.rows import Pair
from cai.serving import Endpoints, serving
from cai.store import write_json
from cai.target import SLICE, forget_shards, in_flight, most_pairs, next_wave, write_reached


def first_draw(config: RunConfig) -> RunConfig:
    """The config with as many slices as its target certainly needs; without a target as it is."""
    target = config.pairs.target
    return config if target is None else _with(config, next_wave(target, 0, 0, most_pairs(config), 1))


async def draw_until(config: RunConfig, stages: Sequence[str], work: Work) -> RunConfig:
    """Run `stages` over wave after wave of slices until `pairs.target` pairs are accepted.

    Slices that are done are counted before one is drawn, so that running again asks nothing. Returns the config with
    the slices that were drawn as its shards, which also stands in the run's folder from then on. Raises TargetError
    where the prompts are used up.
    """
    target = config.pairs.target
    assert target is not None
    known = len(shard_reports(config.root, "prompts"))
    prompts = await work.prompts(_with(config, known)) if known else 0
    done = accepted = 0
    async with contextlib.AsyncExitStack() as stack:
        endpoints: Endpoints | None = None
        while accepted < target:
            upto, found = await _there(
                config, stages, done, min(known, _slices(prompts)), target - accepted, work
            )
            if upto == done:
                drawn = min(prompts, done * SLICE)
                upto += next_wave(target - accepted, accepted, drawn, most_pairs(config), in_flight(config))
                if upto > known:
                    known, prompts = upto, await work.prompts(_with(config, upto))
                if (upto := min(upto, _slices(prompts))) == done:
                    raise _used_up(target, accepted, prompts)
                if endpoints is None and len(groups(config, stages)) == 1:  # one engine, kept over all waves
                    names = [role_of(config, stage) for stage in stages]
                    endpoints = await stack.enter_async_context(serving(config, names))
            wave = range(done, upto)
            await run_stages(_with(config, upto), stages, work, wave, endpoints)
            accepted += found if found else await _count(_with(config, upto), wave, work)
            done = upto
    return await _ended(_with(config, done), work)


async def _there(
    config: RunConfig, stages: Sequence[str], done: int, known: int, missing: int, work: Work
) -> tuple[int, int]:
    """Up to which slice everything is done already, as far as pairs are missing, and the pairs found there."""
    found = 0
    while done < known and found < missing:
        upto = _with(config, done + 1)
        if not await all_done(upto, stages, [done]):
            break
        found += await _count(upto, [done], work)
        done += 1
    return done, found


async def _count(config: RunConfig, shards: Iterable[int], work: Work) -> int:
    """The accepted pairs of these slices."""
    found = 0
    for shard in shards:
        if not config.judge.model:
            await work.combine(config, "judge", shard)
        rows, _ = pairs_of(config, "pairs", shard)
        found += sum(isinstance(row, Pair) for row in rows)
    return found


async def _ended(config: RunConfig, work: Work) -> RunConfig:
    """Keep where the dataset ends, and forget slices of an earlier, larger draw; their replies stay."""

    def accepted() -> Iterator[tuple[int, Pair]]:
        for shard in range(config.shards):
            rows, _ = pairs_of(config, "pairs", shard)
            yield from ((shard, row) for row in rows if isinstance(row, Pair))

    write_reached(config, accepted(), count_prompts(config))
    forget_shards(config.root, config.shards)
    write_json(config.root / "config.json", config)
    await work.show(config, "prompts")
    return config


def _with(config: RunConfig, shards: int) -> RunConfig:
    return config.model_copy(update={"shards": shards})


def _slices(prompts: int) -> int:
    return math.ceil(prompts / SLICE)


def _used_up(target: int, accepted: int, prompts: int) -> TargetError:
    less = f", or set pairs.target to {accepted}" if accepted else ""
    return TargetError(
        f"pairs.target: only {accepted:,} of {target:,} pairs; all {prompts:,} prompts are used up. Every reply is "
        f"kept: add prompts, lower judge.threshold{less}, and run again"
    )
