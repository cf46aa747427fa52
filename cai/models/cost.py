"""What a call costs: tokens times a price per million, from the config or the dated list beside this file.

A model without a known price costs None, never zero: a budget that does not know must say so.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

from cai.config import PriceConfig
from cai.models.base import Usage

PRICES = Path(__file__).with_name("prices.yaml")
CACHE_WRITE = 1.25  # times the input price, where a price does not say: Anthropic's factor for five minutes
SNAPSHOT = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")


@cache
def price_list() -> dict[str, PriceConfig]:
    """List prices by model name, in US dollars per million tokens."""
    data = yaml.safe_load(PRICES.read_text(encoding="utf-8"))
    return {name: PriceConfig.model_validate(price) for name, price in data["models"].items()}


@cache
def batch_discount(backend: str) -> float:
    """The share of the price that requests through a provider's batch API do not cost; 0 where there is none."""
    data = yaml.safe_load(PRICES.read_text(encoding="utf-8"))
    return float(data["batch_discount"].get(backend, 0.0))


@cache
def default_model(role: str, backend: str) -> str:
    """The model that a new config takes for a role (`policy`, `judge`) where none is named."""
    data = yaml.safe_load(PRICES.read_text(encoding="utf-8"))
    return str(data["defaults"][role][backend])


@cache  # asked for every reply
def list_price(model: str) -> PriceConfig | None:
    """The list price of a hosted model or of a dated snapshot of it; None where it is not listed."""
    prices = price_list()
    return prices.get(model) or prices.get(SNAPSHOT.sub("", model))


def cost(usage: Usage, model: str, price: PriceConfig | None) -> float | None:
    """US dollars for `usage`; the config's `price` goes before the list. None where no price is known."""
    price = price or list_price(model)
    if price is None:
        return None
    cached = price.input if price.cached_input is None else price.cached_input
    written = price.input * CACHE_WRITE if price.cached_write is None else price.cached_write
    fresh = usage.prompt_tokens - usage.cached_tokens - usage.cached_write_tokens
    dollars = fresh * price.input + usage.cached_tokens * cached + usage.cached_write_tokens * written
    dollars += usage.completion_tokens * price.output
    return dollars / 1e6
