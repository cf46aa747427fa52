"""What a dataset card tells of the rows: counts, lengths and labels, gathered in passing and in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from cai.export.held import DatasetRow, Talk
from cai.rows import Demonstration, Message, Pair, Stepwise

BINS = 10  # of p, from 0.5 to 1
_REPLIES = {Pair: ("chosen", "rejected"), Demonstration: ("completion",), Stepwise: ("first step",)}


class Lengths(NamedTuple):
    """Lengths of texts, in characters."""

    mean: float
    median: int
    p95: int
    longest: int


class Facts:
    """Counts over rows; memory grows with distinct lengths, tags and principles, not with rows."""

    def __init__(self) -> None:
        self.rows = self.prompts = self.judged = self.longer = self.multi = 0
        self.p: Counter[int] = Counter()
        self.sources: Counter[str] = Counter()
        self.principles: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self._lengths: dict[str, Counter[int]] = {}

    def add(self, row: DatasetRow, talk: Talk, new_prompt: bool) -> None:
        """Count a row; `new_prompt`: no row before it had its prompt."""
        self.rows += 1
        self.prompts += new_prompt
        self.multi += len(talk.prompt) > 1
        self.tags.update(row.tags or ("none",))
        self._measure("prompt", talk.prompt)
        for name, reply in zip(_REPLIES[type(row)], talk.replies, strict=False):
            self._measure(name, reply)
        if not isinstance(row, Stepwise):
            self.sources[row.source] += 1
        if not isinstance(row, Demonstration):
            self.principles.update(row.principles)
        if isinstance(row, Pair):
            self.longer += _length(row.chosen) > _length(row.rejected)
            if row.p is not None:
                self.judged += 1
                self.p[min(BINS - 1, int((row.p - 0.5) * 2 * BINS + 1e-9))] += 1
        elif isinstance(row, Stepwise):
            self.steps.update("good" if label else "bad" for label in row.labels)

    def _measure(self, name: str, turns: Iterable[Message]) -> None:
        self._lengths.setdefault(name, Counter())[_length(turns)] += 1

    @property
    def lengths(self) -> dict[str, Lengths]:
        """Lengths by column."""
        return {name: _summary(counts) for name, counts in self._lengths.items()}

    @property
    def histogram(self) -> list[tuple[float, float, int]]:
        """Pairs by p: from, to, how many."""
        step = 0.5 / BINS
        return [(0.5 + n * step, 0.5 + (n + 1) * step, self.p[n]) for n in range(BINS)]


def _length(turns: Iterable[Message]) -> int:
    return sum(len(turn.content) for turn in turns)


def _summary(counts: Counter[int]) -> Lengths:
    ordered = sorted(counts.items())
    total = counts.total()
    reached = list(accumulate(count for _, count in ordered))

    def at(share: float) -> int:
        return next(
            length for (length, _), up_to in zip(ordered, reached, strict=True) if up_to >= share * total
        )

    mean = sum(length * count for length, count in ordered) / total
    return Lengths(mean, at(0.5), at(0.95), ordered[-1][0])
