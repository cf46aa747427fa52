"""From calls and tokens to hours and money, for more prompts than a run has yet.

    calls     = prompts × calls a prompt + calls whatever the prompts are
    GPU-hours = calls × (prompt tokens ÷ prefill rate + generated tokens ÷ decode rate) ÷ utilisation ÷ 3600
    hours     = GPU-hours ÷ GPUs
    dollars   = GPU-hours × price of one

Prompt tokens are counted without those that a cache answers. A hosted model is paid by its price list and takes as
long as its limits per minute make it. Nothing is known that is not in the rows below, and all of them are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from cai.config import LimitsConfig, PriceConfig
from cai.models.base import Usage
from cai.models.cost import cost
from cai.rows import Row


class Assumed(NamedTuple):
    """What the user states. Rates: tokens a second of one GPU, prompt and generated; by model, "" for all others.

    `violated`, `reply_share`, `prompt_tokens`: of critiques, of max_tokens, of a prompt; None: see where they are used.
    """

    rates: Mapping[str, tuple[float, float]] = {}
    gpus: Mapping[str, float] = {}
    gpu_hour_usd: float | None = None
    utilisation: float = 1.0
    violated: float | None = None
    reply_share: float = 1.0
    prompt_tokens: float | None = None


NOTHING = Assumed()


class Load(Row):
    """One kind of call: how many (`each` a prompt as `formula` says, and `fixed`), and its mean tokens.

    `cached`: the share of prompt tokens that a cache answers. `tokens_from`: measured on the run, or stand-ins.
    """

    stage: str
    kind: str
    model: str
    each: float
    fixed: int
    formula: str
    prompt_tokens: float
    completion_tokens: float
    cached: float
    tokens_from: Literal["measured", "stand-ins"]


class Engine(Row):
    """What answers the calls of one model. `rate`: prompt and generated tokens a second of one GPU; None: unknown.

    `hosted`: paid by `price` (US dollars per million tokens, None where unknown) less `discount` (a share, of batch
    APIs), held to `limits` per minute.
    """

    model: str
    hosted: bool
    rate: tuple[float, float] | None
    rate_from: Literal["given", "measured"] | None
    gpus: float
    utilisation: float
    gpu_hour_usd: float | None
    price: PriceConfig | None
    limits: LimitsConfig | None
    batch: bool
    discount: float


class Need(Row):
    """What one kind of call needs for a number of prompts. Hours and `usd` are None where an input is unknown."""

    kind: str
    calls: int
    prompt_tokens: float
    completion_tokens: float
    gpu_hours: float | None
    hours: float | None
    usd: float | None


class Size(Row):
    """What so many prompts need. `disk_bytes`: of the run's folder without models; None without a run."""

    prompts: int
    needs: tuple[Need, ...]
    disk_bytes: int | None


class Capacity(Row):
    """Everything that decides the hours and the money of a config, and what they come to."""

    run: str
    prompts_seen: int
    prompts_from: Literal["the run", "the config's sources", "--prompt-tokens"]
    reply_share: float
    shares_from: str
    loads: tuple[Load, ...]
    engines: tuple[Engine, ...]
    sizes: tuple[Size, ...]


def need(load: Load, engine: Engine, prompts: int) -> Need:
    """What one kind of call needs for so many prompts."""
    calls = round(prompts * load.each) + load.fixed
    prompt, completion = calls * load.prompt_tokens, calls * load.completion_tokens
    gpu_hours = hours = usd = None
    if engine.rate is not None and not engine.hosted:
        fresh = 1 - load.cached if engine.rate_from == "given" else 1.0  # a measured rate has the hits in it
        seconds = prompt * fresh / engine.rate[0] + completion / engine.rate[1]
        gpu_hours = seconds / engine.utilisation / 3600
        hours = gpu_hours / engine.gpus
        usd = None if engine.gpu_hour_usd is None else gpu_hours * engine.gpu_hour_usd
    elif engine.hosted:
        hours = _limited_hours(engine, calls, prompt + completion)
    if usd is None and engine.price is not None:
        usage = Usage(
            prompt_tokens=round(prompt),
            completion_tokens=round(completion),
            cached_tokens=round(prompt * load.cached),
        )
        found = cost(usage, "", engine.price)
        usd = None if found is None else found * (1 - engine.discount)
    return Need(
        kind=load.kind, calls=calls, prompt_tokens=prompt, completion_tokens=completion,
        gpu_hours=gpu_hours, hours=hours, usd=usd,
    )  # fmt: skip


def _limited_hours(engine: Engine, calls: int, tokens: float) -> float | None:
    """The hours that limits per minute, or the rate seen in the run, make of these calls."""
    if engine.batch:
        return None
    limits = engine.limits or LimitsConfig()
    minutes = [
        amount / limit
        for amount, limit in ((calls, limits.requests_per_minute), (tokens, limits.tokens_per_minute))
        if limit is not None
    ]
    if not minutes and engine.rate is not None:
        minutes = [tokens / engine.rate[0] / 60]
    return max(minutes) / 60 if minutes else None
