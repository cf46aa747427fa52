"""The model calls behind the rows of a page, looked up in the run's journals; nothing of them is held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cai.errors import StoreError
from cai.journal_lines import look_up
from cai.models.base import Completion
from cai.shard import shard_paths


class Sum(NamedTuple):
    """Calls, tokens and cost (US dollars; None where a price is unknown). `lost`: not in the journals (any more)."""

    calls: int
    lost: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


class Calls:
    """The calls that a page asks for: first all that are wanted, then one pass over each journal that may have them."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._wanted: dict[tuple[str, int], dict[str, None]] = {}
        self._found: dict[str, Completion] = {}
        self.problem: str | None = None

    def want(self, stage: str, shard: int, keys: Sequence[str]) -> None:
        """Ask for calls of a stage's shard."""
        self._wanted.setdefault((stage, shard), {}).update(dict.fromkeys(keys))

    def look_up(self) -> None:
        """Read the journals; what cannot be read is told in `problem`, for the rows are there all the same."""
        for (stage, shard), keys in self._wanted.items():
            left = set(keys) - self._found.keys()
            for path in self._journals(stage, shard):
                if not left:
                    break
                try:
                    self._found |= (found := look_up(path, left))
                except StoreError as error:
                    self.problem = str(error)
                    continue
                left -= found.keys()

    def get(self, key: str) -> Completion | None:
        """The reply under a key."""
        return self._found.get(key)

    def summed(self, keys: Sequence[str]) -> Sum:
        """What calls took together; each counts once."""
        distinct = dict.fromkeys(keys)
        found = [self._found[key] for key in distinct if key in self._found]
        costs = [one.cost for one in found]
        return Sum(
            calls=len(distinct),
            lost=len(distinct) - len(found),
            prompt_tokens=sum(one.usage.prompt_tokens for one in found),
            completion_tokens=sum(one.usage.completion_tokens for one in found),
            cost=None if None in costs or not found else sum(cost for cost in costs if cost is not None),
        )

    @property
    def all_keys(self) -> list[str]:
        """Every key that was asked for."""
        return [key for keys in self._wanted.values() for key in keys]

    def _journals(self, stage: str, shard: int) -> list[Path]:
        """The journals that may hold a stage's calls: its own, and those of the judges of a jury or a cascade."""
        own = shard_paths(self._run, stage, shard).journal
        members = sorted(own.parent.parent.glob(f"{stage}-*")) if stage.endswith("judge") else []
        return [path for path in (own, *(folder / own.name for folder in members)) if path.is_file()]
