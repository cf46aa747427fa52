"""The budget of a run: what it may spend at most, held against what it has spent before each attempt is sent.

The caps hold to within what is in flight, in all processes of a run together and over all its resumes; see
`cai.accounts.spending` for how it is counted. What a provider charges for an attempt that failed is in no reply: it
counts as a call, not as tokens or money. An engine that the run starts itself costs nothing, unless the config
prices it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from cai.accounts.spending import (
    CALLS,
    ESTIMATED,
    NANO,
    NANOS,
    TOKENS,
    UNPRICED,
    Counters,
    Spent,
    read_spent,
    shared,
)
from cai.config import BudgetConfig, ModelConfig, RunConfig
from cai.errors import BudgetError, ConfigError, StoreError
from cai.models.base import Completion, Request, Usage
from cai.models.cost import batch_discount, cost, list_price
from cai.models.limits import estimated_tokens, estimated_usage

NO_CAP = sys.maxsize
PER_DOLLAR = 1e9  # of the smallest unit that is counted
AGAIN = "and run the same command to go on"


class Spending:
    """What the calls to one model of a run spend, within the run's budget."""

    def __init__(self, counters: Counters, budget: BudgetConfig | None, model: ModelConfig) -> None:
        self._counters, self._model, self._capped = counters, model, budget is not None
        calls, tokens, dollars = (
            (budget.max_calls, budget.max_tokens, budget.max_cost) if budget else [None] * 3
        )
        self._calls, self._tokens = calls or NO_CAP, tokens or NO_CAP
        self._nanos = round(dollars / NANO) if dollars else NO_CAP

    def begins(self, hold: Request | None) -> None:
        """Count an attempt that is about to be sent. Raises BudgetError where a cap is reached.

        `hold`: nor may what this request can use at most exceed a cap; that counts as used until it `ends`.
        """
        counters = self._counters
        if self._capped:
            totals = counters.totals()
            if (
                totals[CALLS] >= self._calls
                or totals[TOKENS] + counters.held_tokens >= self._tokens
                or totals[NANOS] + counters.held_nanos >= self._nanos
                or hold is not None
            ):
                self._refuse(totals, *(self._estimate(hold) if hold else (0, 0)))
        if hold is not None:
            self.holds(hold)
        counters.count(CALLS)

    def failed(self, why: str) -> None:
        """Count an attempt without a reply."""
        self._counters.count_failed(why)

    def holds(self, request: Request) -> None:
        """What a request can use at most counts as used until it `ends`."""
        self._counters.hold(request, *self._estimate(request))

    def ends(self, request: Request) -> None:
        """What was held for a request is let go."""
        self._counters.release(request)

    def add(self, request: Request, completion: Completion) -> None:
        """Count what a reply has used; where it does not say, what its length tells."""
        usage, price = completion.usage, completion.cost
        prompt, reply = usage.prompt_tokens, usage.completion_tokens
        if not prompt or (not reply and completion.text):
            usage = estimated_usage(request, completion.text)
            prompt, reply, price = usage.prompt_tokens, usage.completion_tokens, self._price(usage)
            self._counters.count(ESTIMATED)
        self._counters.count_reply(prompt + reply, int(price * PER_DOLLAR + 0.5) if price else 0)
        if price is None and self._model.managed is None:
            self._counters.count(UNPRICED)

    def _refuse(self, totals: list[int], tokens: int, nanos: int) -> None:
        """Raise BudgetError where a cap is reached, or so much more would exceed it."""
        held_tokens, held_nanos = self._counters.held_tokens, self._counters.held_nanos
        if totals[CALLS] >= self._calls:
            raise _reached("max_calls", f"{totals[CALLS]:,} of {self._calls:,} calls")
        if totals[TOKENS] + held_tokens >= max(self._tokens - tokens, 1):
            held = f", {held_tokens:,} held for open batches" if held_tokens else ""
            raise _reached("max_tokens", f"{totals[TOKENS]:,} of {self._tokens:,} tokens{held}", tokens)
        if totals[NANOS] + held_nanos >= max(self._nanos - nanos, 1):
            held = f", ${held_nanos * NANO:.4f} held for open batches" if held_nanos else ""
            spent = f"${totals[NANOS] * NANO:.4f} of ${self._nanos * NANO:.2f}"
            raise _reached("max_cost", spent + held, nanos)

    def _estimate(self, request: Request) -> tuple[int, int]:
        """The tokens and billionths of a US dollar that a request may use at most."""
        prompt, reply = estimated_tokens(request)
        found = self._price(Usage(prompt_tokens=prompt, completion_tokens=reply))
        return prompt + reply, round((found or 0.0) / NANO)

    def _price(self, usage: Usage) -> float | None:
        model = self._model
        found = cost(usage, model.model, model.price)
        return found and found * (1 - batch_discount(model.backend) * (model.mode == "batch"))


def _reached(cap: str, spent: str, more: int = 0) -> BudgetError:
    why = "leaves no room for the next request of a batch" if more else "is reached"
    return BudgetError(f"budget.{cap} {why}: {spent} spent; raise it {AGAIN}")


@contextlib.contextmanager
def spending(config: RunConfig, name: str) -> Iterator[Spending]:
    """What calls to the model `name` of a run are counted by. Raises StoreError."""
    with shared(config.root) as counters:
        yield Spending(counters, config.budget, config.models[name])


def check_budget(config: RunConfig) -> None:
    """Refuse a cap on money where a model in use has no known price. Raises ConfigError."""
    if config.budget is None or config.budget.max_cost is None:
        return
    used = [config.policy.model, config.critic.model, *config.judge.judges]
    used += [config.evaluation_judge] if config.evaluate else []
    used += [config.step_judge] if config.stepwise else []
    for name in dict.fromkeys(used):
        model = config.models[name]
        if model.managed is None and (model.price or list_price(model.model)) is None:
            raise ConfigError(
                f"budget.max_cost: no price is known for models.{name} ({model.model}); give models.{name}.price "
                "(zeros for an engine of your own), or leave the cap out"
            )


def unbudgeted(dumped: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON without its budget, which decides nothing about what a run publishes."""
    return {key: value for key, value in dumped.items() if key != "budget"}


def spent_now(config: RunConfig) -> str:
    """What a run with a budget has spent of it so far, in words; "" where that cannot be read."""
    assert config.budget is not None
    try:
        return spent_line(read_spent(config.root) or Spent(), config.budget.model_dump())
    except StoreError:
        return ""


def spent_line(spent: Spent, budget: dict[str, Any]) -> str:
    """What is spent of a stored budget section, in words."""
    parts = []
    if (calls := budget["max_calls"]) is not None:
        parts.append(f"{spent.calls:,} of {calls:,} calls")
    if (tokens := budget["max_tokens"]) is not None:
        parts.append(f"{spent.tokens:,} of {tokens:,} tokens")
    if (dollars := budget["max_cost"]) is not None:
        parts.append(f"${spent.cost:.2f} of ${dollars:.2f}")
    if spent.estimated and budget["max_calls"] is None:
        parts.append(f"tokens of {spent.estimated:,} replies guessed from their length")
    if spent.unpriced and dollars is not None:
        parts.append(f"{spent.unpriced:,} replies without a known price not in it")
    return ", ".join(parts)
