"""What an engine counts about itself: read from vLLM's metrics, kept in the run's folder, one entry a serving.

Prompt tokens that the engine found in its prefix cache need no computing; the share of them says whether
requests that begin alike were sent together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import orjson

from cai.rows import Row
from cai.store import write_json

FILE = "engines.json"
TIMEOUT_S = 5.0
COUNTED = {
    "vllm:request_success": "requests",
    "vllm:prompt_tokens": "prompt_tokens",
    "vllm:generation_tokens": "generation_tokens",
    "vllm:prefix_cache_queries": "prefix_queries",
    "vllm:prefix_cache_hits": "prefix_hits",
}


class EngineFigures(Row):
    """What one engine did from its start to its end.

    `names`: the models of the config that it served. `start_s`: seconds from its start until it was ready.
    `prefix_queries` and `prefix_hits`: prompt tokens looked up in the prefix cache, and those found there.
    """

    names: tuple[str, ...]
    way: Literal["server", "in process"]
    start_s: float
    requests: int
    prompt_tokens: int
    generation_tokens: int
    prefix_queries: int
    prefix_hits: int


async def read_metrics(endpoint: str) -> dict[str, int] | None:
    """The counts of an engine that this process started; None where it has none, or is not there any more."""
    from cai.models.in_process import IN_PROCESS, engine_metrics

    text = engine_metrics(endpoint) if endpoint.startswith(IN_PROCESS) else await _fetch(endpoint)
    return None if text is None else counts(text)


async def _fetch(endpoint: str) -> str | None:
    import aiohttp

    from cai.models.managed import managed_key

    headers = {"Authorization": f"Bearer {managed_key(endpoint)}"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(endpoint.removesuffix("/v1") + "/metrics") as response,
        ):
            return await response.text() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None


def counts(text: str) -> dict[str, int] | None:
    """The counts in a text of Prometheus's format, summed over engines and models; None without any."""
    from prometheus_client.parser import text_string_to_metric_families

    found: Counter[str] = Counter()
    try:
        for family in text_string_to_metric_families(text):
            if name := COUNTED.get(family.name):
                found[name] += int(sum(s.value for s in family.samples if s.name.endswith("_total")))
    except ValueError:
        return None
    return {name: found[name] for name in COUNTED.values()} if found else None


def add_engine(root: Path, figures: EngineFigures) -> None:
    """Add a serving to the run's file of engines. Raises StoreError where it cannot be written."""
    write_json(root / FILE, [*read_engines(root), figures.model_dump(mode="json")])


def read_engines(root: Path) -> list[dict[str, object]]:
    """The servings of a run so far, in order; none where no engine was started for it."""
    path = root / FILE
    if not path.is_file():
        return []
    engines: list[dict[str, object]] = orjson.loads(path.read_bytes())
    return engines


def engine_lines(engines: Sequence[dict[str, object]]) -> list[str]:
    """A line for each set of models served by one engine, summed over its servings."""
    grouped: dict[tuple[str, ...], list[EngineFigures]] = {}
    for engine in map(EngineFigures.model_validate, engines):
        grouped.setdefault(engine.names, []).append(engine)
    return [_line(names, figures) for names, figures in grouped.items()]


def _line(names: Sequence[str], figures: Sequence[EngineFigures]) -> str:
    starts = f"{sum(one.start_s for one in figures):.1f} s"
    started = f"started in {starts}" if len(figures) == 1 else f"started {len(figures)} times in {starts}"
    queries = sum(one.prefix_queries for one in figures)
    hits = sum(one.prefix_hits for one in figures)
    prompt = sum(one.prompt_tokens for one in figures)
    cache = f"prefix cache {hits / queries:.0%} of {prompt:,} prompt tokens" if queries else "no prefix cache"
    requests = sum(one.requests for one in figures)
    tokens = sum(one.generation_tokens for one in figures)
    made = f"{requests:,} requests, {tokens:,} tokens generated"
    return f"{', '.join(names)}: {started} ({figures[0].way}), {made}, {cache}"
