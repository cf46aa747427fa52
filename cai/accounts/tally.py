"""What the calls of a shard add up to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cai.models.base import Completion


@dataclass
class Tally:
    """What the calls of a shard add up to; each distinct call counts once.

    `cost` (US dollars; None once a call without a known price is counted) covers replayed calls too,
    `cost_made` those of this run, in which `generated` tokens were written. `failed`: calls given up, by
    ProviderError kind. `attempts`: exchanges sent; `failed_attempts`: those without a reply, by AttemptFailed's why.
    `defused`: turn tokens in prompts that were broken up (`cai.models.turns`).
    """

    made: int = 0
    replayed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    defused: int = 0
    generated: int = 0
    cost: float | None = 0.0
    cost_made: float | None = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    failed_attempts: Counter[str] = field(default_factory=Counter)

    def add(self, completion: Completion, *, made: bool) -> None:
        """Count one distinct call."""
        usage = completion.usage
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        self.defused += completion.defused
        self.cost = _plus(self.cost, completion.cost)
        if made:
            self.made += 1
            self.generated += usage.completion_tokens
            self.cost_made = _plus(self.cost_made, completion.cost)
        else:
            self.replayed += 1


def _plus(total: float | None, cost: float | None) -> float | None:
    return None if total is None or cost is None else total + cost
