"""How many labels of a preference dataset are wrong: from the labels' own probabilities, else by confident learning.

Where rows carry `p`, the calibrated probability that the chosen side is better, the expected share of wrong labels is
the mean of 1 − p: as good as the calibration. Else a sample is judged by a simple classifier (logistic regression on
the difference of the two sides' words and lengths), always by one that has not seen the row's prompt, and a label
counts as wrong where the classifier is as sure of the opposite as it is of labels on the average (confident learning:
Northcutt et al. 2021, arXiv 1911.00068). Limits: words and length are all that it sees, so what is merely hard for it
looks like noise, and errors that follow its words look like signal; where it does not beat a coin clearly there is no
estimate.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from cai.audit.pairs import Preference, text_of
from cai.intervals import rate

FEWEST = 200  # pairs, below which a classifier learns too little
BEATS_COIN = 0.6  # lower bound of its accuracy on unseen prompts, below which its doubts mean nothing
FOLDS = 5
READ = 4_000  # characters of a side
FEATURES = 2**15


class Noise(NamedTuple):
    """An estimate. `share`: of wrong labels; None with the reason in `note`. `suspects`: rows that the classifier
    takes for wrong, with how sure it is of the opposite, the surest first.
    """

    share: float | None
    method: str | None
    n: int
    note: str
    suspects: list[tuple[Preference, float]]


def by_classifier(rows: Sequence[Preference]) -> Noise:
    """Confident learning on paired rows; those with two equal sides do not count."""
    pairs = [row for row in rows if row.rejected and text_of(row.chosen) != text_of(row.rejected)]
    n = len(pairs)
    groups = [_group(row) for row in pairs]
    if n < FEWEST or len(set(groups)) < FOLDS:
        return Noise(None, None, n, f"{n} pairs to learn from; it takes {FEWEST}, and {FOLDS} prompts", [])
    p = _unseen(pairs, groups)
    right = sum(one > 0.5 for one in p)
    accuracy = rate(right, n)
    told = f"classifier right on {right / n:.1%} of unseen prompts"
    if (accuracy.low or 0.0) < BEATS_COIN:
        return Noise(None, None, n, f"{told}: too near a coin to tell a wrong label from a hard one", [])
    sure = sum(p) / n  # mean self-confidence: the threshold of either label, for the two are mirror images
    wrong = [(row, 1 - one) for row, one in zip(pairs, p, strict=True) if 1 - one >= sure]
    kept = sum(one >= sure for one in p)
    share = len(wrong) / (len(wrong) + kept)
    wrong.sort(key=lambda pair: -pair[1])
    return Noise(share, "confident learning", n, f"confident learning; {told}", wrong)


def _unseen(pairs: Sequence[Preference], groups: Sequence[bytes]) -> list[float]:
    """P(chosen is better) of each pair, by a classifier of other prompts."""
    import numpy
    from scipy.sparse import csr_matrix, diags, hstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    words = HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False)
    chosen, rejected = ([_text(row, side) for row in pairs] for side in ("chosen", "rejected"))
    ratio = [[math.log((len(a) + 1) / (len(b) + 1))] for a, b in zip(chosen, rejected, strict=True)]
    difference = words.transform(chosen) - words.transform(rejected)
    features = hstack([difference, csr_matrix(numpy.array(ratio))]).tocsr()
    # each pair once, shown from the one side or the other: there is no other class to learn
    sign = numpy.array([1.0 if group[0] % 2 else -1.0 for group in map(_side, pairs)])
    features = (diags(sign) @ features).tocsr()
    fold = numpy.array([group[0] % FOLDS for group in groups])
    p = numpy.full(len(pairs), 0.5)
    for held in range(FOLDS):
        train, test = fold != held, fold == held
        if not test.any() or len(set(sign[train])) < 2:
            continue
        model: Any = LogisticRegression(
            fit_intercept=False, C=3.0, solver="liblinear", tol=0.01, random_state=0
        ).fit(features[train], sign[train])
        first = model.predict_proba(features[test])[:, list(model.classes_).index(1.0)]
        p[test] = numpy.where(sign[test] > 0, first, 1 - first)
    return [float(one) for one in p]


def _text(row: Preference, side: str) -> str:
    turns = row.chosen if side == "chosen" else row.rejected
    return text_of(turns or ())[:READ]


def _group(row: Preference) -> bytes:
    return hashlib.blake2b(
        text_of(row.prompt).encode("utf-8", "replace"), digest_size=2, salt=b"fold"
    ).digest()


def _side(row: Preference) -> bytes:
    both = f"{row.id}\x1f{text_of(row.prompt)}".encode("utf-8", "replace")
    return hashlib.blake2b(both, digest_size=1, salt=b"side").digest()
