"""Capacity as a person reads it in the terminal: what goes in, what comes out, and the formula with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cai.plan.need import Capacity, Engine, Load, Need, Size
from cai.report.tables import plain

FORMULA = {
    "gpu": "GPU-hours = calls × (prompt tokens ÷ prefill rate + generated tokens ÷ decode rate) ÷ utilisation ÷ 3600",
    "hosted": "hours of a hosted model = the longer of calls ÷ calls a minute and tokens ÷ tokens a minute, ÷ 60",
}


def print_capacity(found: Capacity, console: Console) -> None:
    """Inputs, then hours and money for each number of prompts, then the formula with the first numbers put in."""
    console.print(_inputs(found))
    for engine in found.engines:
        console.print(plain(_engine(engine)), soft_wrap=True, highlight=False)
    console.print(plain(_assumptions(found)), soft_wrap=True, highlight=False)
    console.print(_sizes(found))
    if found.sizes:
        for line in _formula(found, found.sizes[0]):
            console.print(plain(line), soft_wrap=True, highlight=False)


def number(value: float) -> str:
    """A number as it went into the sum: at most four decimals, none that say nothing."""
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _inputs(found: Capacity) -> Table:
    table = Table(title=f"capacity of {plain(found.run)}", title_justify="left")
    for column in ("calls of", "model", "a prompt", "tokens in", "out", "from"):
        right = column in ("a prompt", "tokens in", "out")
        table.add_column(column, justify="right" if right else "left", no_wrap=right)
    for load in found.loads:
        calls = number(load.each) if load.each or not load.fixed else f"{load.fixed:,} in all"
        prompt = number(load.prompt_tokens)
        if load.cached:
            prompt += f" ({number(100 * load.cached)} % cached)"
        table.add_row(
            plain(load.kind),
            plain(load.model),
            calls,
            prompt,
            number(load.completion_tokens),
            load.tokens_from,
        )
    return table


def _engine(engine: Engine) -> str:
    """One line on what answers a model's calls."""
    if engine.hosted:
        limits = engine.limits
        parts = [
            f"{number(limit)} {what} a minute"
            for limit, what in (
                (limits.requests_per_minute if limits else None, "calls"),
                (limits.tokens_per_minute if limits else None, "tokens"),
            )
            if limit is not None
        ]
        if not parts and engine.rate:
            parts = [f"{number(engine.rate[0])} tokens/s, measured in this run"]
        price = engine.price
        cost = (
            f"${number(price.input)} in, ${number(price.output)} out a million tokens"
            if price
            else "no price known"
        )
        if engine.batch:
            parts = ["in batches, each within a day"]
        limited = ", ".join(parts) or "no limits known: give models.x.limits for hours"
        return f"{engine.model}: hosted; {cost}; {limited}"
    if engine.rate is None:
        return f"{engine.model}: no rate known; give --rate {engine.model}=PREFILL/DECODE, or run the config once"
    rate = f"{number(engine.rate[0])} prompt and {number(engine.rate[1])} generated tokens/s a GPU, as given"
    if engine.rate_from == "measured":
        rate = f"{number(engine.rate[0])} tokens/s a GPU, prompt and generated together, measured in this run"
    price_ = (
        f"${number(engine.gpu_hour_usd)} a GPU-hour" if engine.gpu_hour_usd is not None else "no price given"
    )
    return f"{engine.model}: {rate}; {number(engine.gpus)} GPUs; utilisation {number(engine.utilisation)}; {price_}"


def _assumptions(found: Capacity) -> str:
    shares = ""
    if any(load.tokens_from == "stand-ins" for load in found.loads):
        shares = f"; stand-ins for replies: {number(100 * found.reply_share)} % of max_tokens, 4 characters a token"
    return (
        f"prompts: {found.prompts_seen} looked at, from {found.prompts_from}; what critiques find: "
        f"{found.shares_from}{shares}; replies that do not parse are asked again on top"
    )


def _sizes(found: Capacity) -> Table:
    table = Table(title="hours and money, stages one after another", title_justify="left")
    for column in ("prompts", "calls of", "calls", "tokens in/out", "GPU-hours", "hours", "cost $"):
        left = column == "calls of"
        table.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for size in found.sizes:
        for index, need in enumerate(size.needs):
            table.add_row("" if index else short(size.prompts), plain(need.kind), *_cells([need]))
        disk = "" if size.disk_bytes is None else f", {short(size.disk_bytes)}B on disk"
        table.add_row("", f"all{disk}", *_cells(size.needs))
        table.add_section()
    return table


def _cells(needs: Sequence[Need]) -> list[str]:
    """Sums over needs; a sum that lacks a part is marked ≥."""
    asked = [need for need in needs if need.calls]
    tokens = (
        short(sum(getattr(need, f"{part}_tokens") for need in needs)) for part in ("prompt", "completion")
    )
    sums = []
    for name in ("gpu_hours", "hours", "usd"):
        known = [value for need in asked if (value := getattr(need, name)) is not None]
        least = "≥ " if len(known) < len(asked) and name != "gpu_hours" else ""
        sums.append(f"{least}{short(sum(known), 2)}" if known else "–")
    return [short(sum(need.calls for need in needs)), "/".join(tokens), *sums]


def short(value: float, digits: int = 0) -> str:
    """Three figures with a unit from a thousand on (k, M, G, T); below, so many decimals."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}" if value < 999.5 * unit else f"{value / unit:,.0f}{name}"
    return f"{value:.{digits}f}"


def _formula(found: Capacity, size: Size) -> list[str]:
    """The formula, and for each kind of call the same with its numbers."""
    engines = {engine.model: engine for engine in found.engines}
    kinds = {"hosted" if engine.hosted else "gpu" for engine in found.engines}
    lines = [
        "calls = prompts × calls a prompt; of qualify, evaluate and grade: however many prompts there are"
    ]
    lines += [FORMULA[kind] for kind in ("gpu", "hosted") if kind in kinds]
    lines.append(f"for {size.prompts:,} prompts:")
    for load, need in zip(found.loads, size.needs, strict=True):
        calls = f"  {load.kind}: {load.formula} = {need.calls:,} calls"
        if load.each:
            calls = f"  {load.kind}: {size.prompts:,} × {number(load.each)} ({load.formula}) = {need.calls:,} calls"
        lines.append(calls + _hours(load, engines[load.model], need))
    return lines


def _hours(load: Load, engine: Engine, need: Need) -> str:
    """How calls become hours and dollars, with the numbers; empty where an input is unknown."""
    if need.gpu_hours is not None and engine.rate is not None:
        prompt = number(load.prompt_tokens)
        if load.cached and engine.rate_from == "given":
            prompt += f" × {number(1 - load.cached)} not cached"
        text = (
            f" × ({prompt} ÷ {number(engine.rate[0])} + {number(load.completion_tokens)} ÷ {number(engine.rate[1])})"
            f" ÷ {number(engine.utilisation)} ÷ 3600 = {need.gpu_hours:,.2f} GPU-hours"
            f" ÷ {number(engine.gpus)} = {need.hours:,.2f} h"
        )
        return text + (
            f"; GPU-hours × ${number(engine.gpu_hour_usd)} = ${need.usd:,.2f}"
            if engine.gpu_hour_usd is not None
            else ""
        )
    if engine.price is not None and need.usd is not None:
        fresh = need.prompt_tokens * (1 - load.cached)
        text = f"; {short(fresh)} × ${number(engine.price.input)}"
        if load.cached:
            cached = engine.price.input if engine.price.cached_input is None else engine.price.cached_input
            text += f" + {short(need.prompt_tokens - fresh)} cached × ${number(cached)}"
        text += f" + {short(need.completion_tokens)} × ${number(engine.price.output)} a million"
        text += f", less {number(100 * engine.discount)} % in batches" if engine.discount else ""
        text += f" = ${need.usd:,.2f}"
        return text + (f"; {need.hours:,.2f} h" if need.hours is not None else "")
    return f"; {need.hours:,.2f} h" if need.hours is not None else ""
