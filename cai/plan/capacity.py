"""What a config would need for more prompts than a run has yet: its calls, its tokens, its engines, its disk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from cai.config import RunConfig
from cai.constitution import load_constitution
from cai.models.metrics import EngineFigures, read_engines
from cai.pipeline import read_stage
from cai.plan.need import NOTHING, Assumed, Capacity, Load, Size, need
from cai.plan.per_prompt import CallsAPrompt, calls_a_prompt, shares_of
from cai.plan.rates import CHARACTERS_A_TOKEN, PerCall, tokens_a_call
from cai.plan.speed import engine_of
from cai.plan.stand_ins import stand_in_tokens
from cai.report.status import shard_reports, summed
from cai.rows import Drop, Message, Prompt
from cai.sources import read_prompts

SIZES = (10_000, 1_000_000, 100_000_000)
SAMPLE = 50  # prompts whose length and tags stand for all


def make_capacity(config: RunConfig, prompts: Sequence[int] = SIZES, assumed: Assumed = NOTHING) -> Capacity:
    """What `config` would need for so many prompts. Asks no model, needs no key of an account.

    Raises ConfigError or ConstitutionError for what is wrong in config, constitution, templates or prompts.
    """
    sample, origin = _sample(config, assumed.prompt_tokens)
    constitution = load_constitution(config.constitution)
    shares = shares_of(config, constitution, sample, assumed.violated)
    loads = asyncio.run(_loads(config, calls_a_prompt(config, constitution, shares), sample, assumed))
    stages: dict[str, list[str]] = {}
    for load in loads:
        stages.setdefault(load.model, []).append(load.stage)
    engines = {name: engine_of(config, name, asked, assumed) for name, asked in stages.items()}
    disk = disk_a_prompt(config.root)
    return Capacity(
        run=str(config.root),
        prompts_seen=len(sample),
        prompts_from=origin,
        reply_share=assumed.reply_share,
        shares_from=shares.origin,
        loads=tuple(loads),
        engines=tuple(engines.values()),
        sizes=tuple(
            Size(
                prompts=count,
                needs=tuple(need(load, engines[load.model], count) for load in loads),
                disk_bytes=None if disk is None else round(disk * count),
            )
            for count in prompts
        ),
    )  # fmt: skip


async def _loads(
    config: RunConfig, calls: Sequence[CallsAPrompt], sample: Sequence[Prompt], assumed: Assumed
) -> list[Load]:
    """The tokens of every kind of call: of the run's own calls, else of stand-ins."""
    loads, stood_in = [], dict[str, dict[str, PerCall]]()
    for each in calls:
        tokens = tokens_a_call(config.root, each.stage)
        measured = tokens is not None
        if tokens is None:
            if each.stage not in stood_in:
                stood_in[each.stage] = await stand_in_tokens(config, each.stage, sample, assumed.reply_share)
            tokens = stood_in[each.stage].get(each.kind, PerCall(0.0, 0.0))
        loads.append(
            Load(
                **each._asdict() | {"each": round(each.each, 4)},
                prompt_tokens=round(tokens.prompt, 2),
                completion_tokens=round(tokens.completion, 2),
                cached=round(_cached(config.root, each.stage, each.model), 4) if measured else 0.0,
                tokens_from="measured" if measured else "stand-ins",
            )
        )
    return loads


def _cached(root: Path, stage: str, model: str) -> float:
    """The share of a stage's prompt tokens that a cache answered, as the replies count them, else as the engine did."""
    reports = shard_reports(root, stage)
    prompt = sum(report.prompt_tokens for report in reports)
    cached = sum(report.cached_tokens for report in reports)
    if not cached:
        figures = [EngineFigures.model_validate(one) for one in read_engines(root)]
        figures = [one for one in figures if model in one.names]
        prompt = sum(one.prefix_queries for one in figures)
        cached = sum(one.prefix_hits for one in figures)
    return cached / prompt if prompt else 0.0


def _sample(
    config: RunConfig, tokens: float | None
) -> tuple[list[Prompt], Literal["the run", "the config's sources", "--prompt-tokens"]]:
    """The prompts whose length and tags stand for all."""
    if tokens is not None:
        text = "x" * max(1, round(tokens * CHARACTERS_A_TOKEN))
        tags = config.prompts[0].tags
        made = (Message(role="user", content=text),)
        return [
            Prompt(id=str(i), messages=made, tags=tags, source="") for i in range(SAMPLE)
        ], "--prompt-tokens"
    published = read_stage(config, "prompts", Prompt) if shard_reports(config.root, "prompts") else iter(())
    if found := list(islice(published, SAMPLE)):
        return found, "the run"
    rows = (row for row in read_prompts(config.prompts) if not isinstance(row, Drop))
    return list(islice(rows, SAMPLE)), "the config's sources"


def disk_a_prompt(root: Path) -> float | None:
    """Bytes of a run's folder for each of its prompts, journals included; checkpoints and engines' logs are not."""
    prompts = int(summed(shard_reports(root, "prompts"))["rows_out"])
    if not prompts:
        return None
    stages = [root / "journal", root / "dataset", *{path.parent for path in root.glob("*/manifest-*.json")}]
    files = {path for stage in stages for path in stage.rglob("*") if path.is_file()}
    return sum(path.stat().st_size for path in files) / prompts
