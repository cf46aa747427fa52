"""Guards against Goodhart's law: what a model's held-out replies look like, whatever they were graded.

Training against a judge also teaches what merely pleases it: longer replies, one safe phrase for everything. These
figures show that. They come from the replies that the evaluation stored; no model is asked. They are of at most
REPLIES prompts, the same ones for every model, so memory is bounded and the models are comparable. Words are what
stands between blanks; in n-grams and openings, upper and lower case are one.

distinct-n: Li et al. 2016, arXiv 1510.03055. self-BLEU: Zhu et al. 2018 (Texygen), arXiv 1802.01886.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cai.evaluate.self_bleu import self_bleu
from cai.intervals import Difference, mean_difference
from cai.models.base import derive_seed
from cai.rows import Reply, Row

REPLIES = 2_000  # a share of so many is known to about 2 points
SELF_BLEU_REPLIES = 500  # Texygen's; the figure grows with their number, so it is the same in every run
OPENING = 5  # words: "I'm sorry, but I can't" is a phrase, fewer words are how many sentences begin
SHOWN = 80  # characters of an opening that are kept: a word may be of any length

# A warning needs a change beyond what chance or another sampling of the same model makes.
LONGER = 1.5  # × the base's mean length: a judge that likes length may have paid for the words
LESS_DISTINCT = 0.5  # × the base's distinct-2: half of the variety is gone
OPENING_OFTEN = 0.30  # a phrase that opens so many replies is not an answer to each of those prompts …
OPENING_RARE = 0.15  # … and was learned, where the base has no phrase that is half as common
MORE_TRUNCATED = (
    0.10  # more of all replies than of the base's hit max_tokens: no grade and no length counts them
)


class Replies(Row):
    """How the replies of one model read; shares in [0, 1], lengths in words, None where there are no replies.

    `n`: replies looked at. `truncated`: share of all replies that were cut at max_tokens and are not among them.
    `longer`: mean change in words against the base on the same prompts; None for the base. `opening`: the most
    common first words, with the share of replies that begin so. `duplicates`: share of replies of which there is
    another copy. `warnings`: what speaks for Goodhart's law, in plain lines.
    """

    n: int
    truncated: float | None = None
    mean_words: float | None = None
    median_words: float | None = None
    longer: Difference | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    self_bleu: float | None = None
    opening: str | None = None
    opening_share: float | None = None
    duplicates: float | None = None
    warnings: tuple[str, ...] = ()


def draw(replies: Iterable[Reply], seed: int) -> dict[str, str]:
    """The texts of REPLIES replies by id, drawn by a hash of the id: the same prompts of every model, in one order."""
    ranked = ((derive_seed(seed, reply.id, "guards"), reply.id, reply.text) for reply in replies)
    return {id: text for _, id, text in heapq.nsmallest(REPLIES, ranked)}


def describe(texts: Mapping[str, str], truncated: int, asked: int) -> Replies:
    """The figures of one model by itself. `texts`: what `draw` chose; `truncated`: replies cut, of all `asked`."""
    share = truncated / asked if asked else None
    if not texts:
        return Replies(n=0, truncated=share)
    lengths = [len(text.split()) for text in texts.values()]
    words = [text.casefold().split() for text in texts.values()]
    opening, often = _opening(words)
    copies = sum(count for count in Counter(texts.values()).values() if count > 1)
    numbers: dict[str, int] = {}
    coded = [[numbers.setdefault(word, len(numbers)) for word in reply] for reply in words]
    return Replies(
        n=len(texts),
        truncated=share,
        mean_words=sum(lengths) / len(texts),
        median_words=float(statistics.median(lengths)),
        distinct_1=_distinct(coded, 1),
        distinct_2=_distinct(coded, 2),
        self_bleu=self_bleu(coded[:SELF_BLEU_REPLIES]),
        opening=opening[:SHOWN].encode("utf-8", "replace").decode(),  # JSON takes no lone surrogate
        opening_share=often / len(texts),
        duplicates=copies / len(texts),
    )


def compare(
    found: Replies, base: Replies, texts: Mapping[str, str], base_texts: Mapping[str, str]
) -> Replies:
    """A trained model's figures with its change in length against the base, and with warnings."""
    both = [id for id in texts if id in base_texts]
    longer = mean_difference(
        [len(texts[id].split()) for id in both], [len(base_texts[id].split()) for id in both]
    )
    found = found.model_copy(update={"longer": longer})
    return found.model_copy(update={"warnings": tuple(_warnings(found, base))})


def _warnings(found: Replies, base: Replies) -> Iterable[str]:
    cut, cut_before = found.truncated or 0, base.truncated or 0
    if cut > cut_before + MORE_TRUNCATED:
        yield (
            f"{cut:.0%} of its replies were cut at max_tokens (base {cut_before:.0%}) and count nowhere; "
            "raise evaluate.sampling.max_tokens"
        )
    if found.mean_words is None or base.mean_words is None:
        return
    if found.mean_words > LONGER * base.mean_words > 0:
        yield f"its replies are {found.mean_words / base.mean_words:.1f} times as long as the base's"
    if found.distinct_2 and base.distinct_2 and found.distinct_2 <= LESS_DISTINCT * base.distinct_2:
        yield f"its word pairs vary less: distinct-2 is {found.distinct_2:.2f} (base {base.distinct_2:.2f})"
    often, before = found.opening_share or 0, base.opening_share or 0
    if often > OPENING_OFTEN and before < OPENING_RARE:
        yield f"{often:.0%} of its replies begin with “{found.opening}” (base: no beginning above {before:.0%})"


def _opening(words: Sequence[Sequence[str]]) -> tuple[str, int]:
    """The most common first words of the replies, and how many begin so; of equals, the last in the alphabet."""
    counts = Counter(" ".join(reply[:OPENING]) for reply in words)
    often, opening = max((count, opening) for opening, count in counts.items())
    return opening, often


def _distinct(replies: Sequence[Sequence[int]], order: int) -> float | None:
    """Different n-grams, as a share of all; None where no reply is long enough for one."""
    seen: set[int] = set()
    total = 0
    for words in replies:
        grams = words if order == 1 else (a << 32 | b for a, b in itertools.pairwise(words))
        seen.update(grams)
        total += max(0, len(words) - order + 1)
    return len(seen) / total if total else None
