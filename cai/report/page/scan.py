"""What the page needs of single rows, in one pass over each stage: counters, a few drawn rows, and the worst ones.

Memory is bounded however long the stages are: by the numbers of tags and of length bins, and by EXAMPLES and WORST
rows of each kind. Draws and ties go by ids, so the same run gives the same page.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Generic, Literal, NamedTuple, TypeVar

from cai.models.base import derive_seed
from cai.rows import Judgment, Revision, Verdict

EXAMPLES = 20  # drawn revisions
WORST = 5  # rows of each kind
NEAR = 0.2  # of the words: what changes no more is nearly unchanged
STEPS = 20  # bins a doubling of length: a median is right to 2 %
Tagged = Literal["replies", "violated", "changed", "judged", "better", "worse", "comparisons", "labels"]
Kept = TypeVar("Kept", Revision, Judgment)


class Best(NamedTuple, Generic[Kept]):
    """The rows of the highest scores seen so far, as a heap of (score, id, row) of at most `size`."""

    size: int
    heap: list[tuple[float, str, Kept]]

    def rows(self) -> list[tuple[float, Kept]]:
        """Scores and rows, the highest first."""
        return [(score, row) for score, _, row in sorted(self.heap, key=lambda held: held[:2], reverse=True)]


class Growth(NamedTuple):
    """Lengths of changed revisions in bins of log2. `chars`: sums of characters and, of all `n`, how many
    revisions are `longer` than their reply or `near` it.
    """

    before: Counter[int]
    after: Counter[int]
    ratio: Counter[int]
    chars: Counter[Literal["before", "after", "longer", "near", "n"]]


class Scan(NamedTuple):
    """All that is counted. `unmoved`: replies in which a violation was found, and that came out the same text.

    `tags`: by (tag, what). `verdicts`: what the judge found of each drawn revision, by its id.
    """

    tags: Counter[tuple[str, Tagged]]
    growth: Growth
    unmoved: Counter[Literal["n"]]
    drawn: Best[Revision]
    grown: Best[Revision]
    near: Best[Revision]
    unsure: Best[Judgment]
    torn: Best[Judgment]
    regressed: Best[Judgment]
    verdicts: dict[str, Judgment | None]


def empty_scan() -> Scan:
    """Counters and heaps of nothing."""
    drawn, grown, near = (Best[Revision](size, []) for size in (EXAMPLES, WORST, WORST))
    unsure, torn, regressed = (Best[Judgment](WORST, []) for _ in range(3))
    return Scan(
        tags=Counter(),
        growth=Growth(Counter(), Counter(), Counter(), Counter()),
        unmoved=Counter(),
        drawn=drawn,
        grown=grown,
        near=near,
        unsure=unsure,
        torn=torn,
        regressed=regressed,
        verdicts={},
    )


def scan_revisions(found: Scan, revisions: Iterable[Revision], seed: int) -> None:
    """Count revisions, draw EXAMPLES of those that changed the text, and keep the most and least changed ones."""
    for row in revisions:
        violated, changed = any(done.violated for done in row.rounds), row.changed
        for tag in set(row.reply.prompt.tags):
            found.tags[tag, "replies"] += 1
            found.tags[tag, "violated"] += violated
            found.tags[tag, "changed"] += changed
        if not changed:
            found.unmoved["n"] += violated
            continue
        before, after = len(row.reply.text), len(row.final)
        _count_growth(found.growth, before, after)
        keep(found.drawn, -derive_seed(seed, row.id, "report"), row)
        keep(found.grown, after - before, row)
        if (share := changed_share(row.reply.text, row.final)) <= NEAR:
            found.growth.chars["near"] += 1
            keep(found.near, -share, row)
    found.verdicts.update((row.id, None) for _, row in found.drawn.rows())


def scan_judgments(found: Scan, judgments: Iterable[Judgment], *, verify: bool, label: bool) -> None:
    """Keep the judgments that should be looked at first.

    `verify`: revisions are compared with their replies here. `label`: the preference pairs come from here.
    """
    for row in judgments:
        labelled = row.state == "labelled" and row.p is not None
        if label:
            for tag in set(row.prompt.tags):
                found.tags[tag, "comparisons"] += 1
                found.tags[tag, "labels"] += labelled
            if labelled and row.p is not None:
                keep(found.unsure, -max(row.p, 1 - row.p), row)
            elif row.state == "inconsistent":
                keep(found.torn, gap_of(row.verdicts), row)
        if verify and row.b.kind == "revision":
            _count_verified(found, row, labelled)


def keep(best: Best[Kept], score: float, row: Kept) -> None:
    """Hold a row if it is among the highest scores, and its id is not held."""
    full = len(best.heap) == best.size
    if (full and (score, row.id) <= best.heap[0][:2]) or any(row.id == id for _, id, _ in best.heap):
        return
    (heapq.heapreplace if full else heapq.heappush)(best.heap, (score, row.id, row))


def changed_share(before: str, after: str) -> float:
    """The share of the words that lie between the first and the last difference: linear, never below the true one."""
    old, new = before.split(), after.split()
    longer, shorter = max(len(old), len(new)), min(len(old), len(new))
    start = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    rest = shorter - start
    end = next((at for at in range(rest) if old[-1 - at] != new[-1 - at]), rest)
    return (longer - start - end) / longer if longer else 0.0


def gap_of(verdicts: Iterable[Verdict]) -> float:
    """The largest distance between a judge's two orders under one principle, of those on different sides."""
    return max(
        (abs(ab - ba) for _, ab, ba in both_orders(verdicts) if (ab - 0.5) * (ba - 0.5) < 0), default=0.0
    )


def both_orders(verdicts: Iterable[Verdict]) -> Iterator[tuple[Verdict, float, float]]:
    """Each verdict that was read in both orders, with P(a better) when a and when b was shown first."""
    first: dict[tuple[str, str], Verdict] = {}
    for verdict in verdicts:
        other = first.setdefault((verdict.judge, verdict.principle), verdict)
        if other.order != verdict.order and other.p is not None and verdict.p is not None:
            ab, ba = (other.p, verdict.p) if other.order == "ab" else (verdict.p, other.p)
            yield verdict, ab, ba


def _count_verified(found: Scan, row: Judgment, labelled: bool) -> None:
    if row.b.id in found.verdicts:
        found.verdicts[row.b.id] = row
    for tag in set(row.prompt.tags):
        found.tags[tag, "judged"] += 1
        if labelled and row.p is not None:
            found.tags[tag, "worse" if row.p > 0.5 else "better"] += 1
    if labelled and row.p is not None and row.p > 0.5:
        keep(found.regressed, row.p, row)


def _count_growth(growth: Growth, before: int, after: int) -> None:
    growth.before[length_bin(before)] += 1
    growth.after[length_bin(after)] += 1
    growth.ratio[round(STEPS * math.log2(max(after, 1) / max(before, 1)))] += 1
    growth.chars["before"] += before
    growth.chars["after"] += after
    growth.chars["longer"] += after > before
    growth.chars["n"] += 1


def length_bin(chars: int) -> int:
    """The bin of a length, of STEPS a doubling; an empty text is in that of one character."""
    return math.floor(STEPS * math.log2(max(chars, 1)) + 1e-9)
