"""Self-BLEU: how much a model repeats itself (Zhu et al. 2018, Texygen, arXiv 1802.01886).

Each reply's BLEU against all other replies as its references, n-grams of 1 to 4 words with equal weights; the mean
of that. 1: all replies are alike. Counts that match nothing are smoothed as in Texygen (0.1 for 0: Chen and Cherry
2014, method 1); an order that a reply is too short for is left out. Time grows with the number of words, not with
its square: of each n-gram the two highest counts are enough to leave a reply's own out.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterator, Sequence

ORDERS = 4
UNMATCHED = 0.1  # in place of no match

Words = Sequence[int]


def self_bleu(replies: Sequence[Words]) -> float | None:
    """Self-BLEU in [0, 1] of replies as numbered words; empty ones are left out. None below two replies."""
    said = [words for words in replies if words]
    if len(said) < 2:
        return None
    logs: list[list[float]] = [[] for _ in said]
    for order in range(1, ORDERS + 1):
        for found, precision in zip(logs, _precisions(said, order), strict=True):
            if precision is not None:
                found.append(math.log(precision))
    lengths = sorted(map(len, said))
    scores = [
        math.exp(math.fsum(found) / len(found) + _brevity(len(words), lengths))
        for words, found in zip(said, logs, strict=True)
    ]
    return math.fsum(scores) / len(scores)


def _precisions(said: Sequence[Words], order: int) -> Iterator[float | None]:
    """Of each reply, the share of its n-grams that one of the others has, clipped as BLEU does; None: it has none."""
    counted = [Counter(zip(*(words[i:] for i in range(order)), strict=False)) for words in said]
    most: dict[tuple[int, ...], tuple[int, int, int]] = {}  # highest count, whose, highest of the others
    for index, counts in enumerate(counted):
        for gram, count in counts.items():
            high, whose, second = most.get(gram, (0, -1, 0))
            most[gram] = (count, index, high) if count > high else (high, whose, max(second, count))
    for index, counts in enumerate(counted):
        total = matched = 0
        for gram, count in counts.items():
            high, whose, second = most[gram]
            total += count
            matched += min(count, second if whose == index else high)
        yield (matched or UNMATCHED) / total if total else None


def _brevity(length: int, lengths: Sequence[int]) -> float:
    """Log of BLEU's penalty against the closest length among the others, of two the shorter. `lengths`: sorted, all."""
    first, last = bisect.bisect_left(lengths, length), bisect.bisect_right(lengths, length)
    if last - first > 1 or last == len(lengths):
        return 0.0
    if first and length - lengths[first - 1] <= lengths[last] - length:
        return 0.0
    return 1 - lengths[last] / length
