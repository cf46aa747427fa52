"""Win rates of one model over another on the same prompts, with what chance and the length of replies make of them.

A tie is half a win. Intervals are percentiles of a bootstrap over prompts (Efron 1979), drawn by the run's seed; where
all comparisons ended alike no draw differs, and Wilson's interval takes its place. The p-value is of the exact sign
test: how often as many more wins than losses, or losses than wins, come of a fair coin. Ties say nothing to it.

Length control: Dubois et al. 2024 (AlpacaEval 2), arXiv 2404.04475. A logistic regression of the outcome on
tanh(difference in length / its standard deviation), and its prediction for replies of one length. Their term for how
hard each prompt is, which wants many models, is left out. The slope has a faint penalty, so that it stays finite where
length alone decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cai.intervals import rate
from cai.rows import Row

DRAWS = 1_000  # of the bootstrap: the bounds of 95 % are its 26th and 975th
EVENTS = 10  # wins, and losses, that the regression needs; the usual least for each coefficient
WEAK = 100.0  # scikit-learn's C; its default of 1 shrinks a steep slope, and leaves length in the rate


class Outcome(NamedTuple):
    """One comparison. `score`: 1 for a win, 0.5 for a tie, 0 for a loss. `longer`: characters more than the other's."""

    score: float
    longer: int


class WinRate(Row):
    """(wins + ties / 2) / n in [0, 1] with its 95 % interval; all three None where `n` is 0."""

    rate: float | None
    low: float | None
    high: float | None
    n: int
    wins: int
    ties: int
    losses: int


class EqualLength(Row):
    """The win rate that is left at equal length, with its 95 % interval; all three None where `why_not` says why."""

    rate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int
    why_not: str | None = None


def win_rate(outcomes: Sequence[Outcome], seed: int) -> WinRate:
    """The win rate of these comparisons. `seed`: of the bootstrap."""
    import numpy as np

    n = len(outcomes)
    wins, losses = (sum(one.score == score for one in outcomes) for score in (1.0, 0.0))
    counts = {"n": n, "wins": wins, "ties": n - wins - losses, "losses": losses}
    if n == 0 or n in (wins, losses, counts["ties"]):
        alike = rate(wins + counts["ties"] / 2, n)
        return WinRate(rate=alike.rate, low=alike.low, high=alike.high, **counts)
    scores = np.array([one.score for one in outcomes])
    low, high = _bounds([float(weights @ scores) / n for weights in _draws(n, seed)])
    return WinRate(rate=(wins + counts["ties"] / 2) / n, low=low, high=high, **counts)


def sign_test(wins: int, losses: int) -> float | None:
    """The two-sided p-value of the exact sign test; None where nothing was won or lost."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else None


def equal_length(outcomes: Sequence[Outcome], seed: int) -> EqualLength:
    """The win rate with the effect of length taken out. `seed`: of the bootstrap."""
    import numpy as np

    n = len(outcomes)
    scores = np.array([one.score for one in outcomes])
    longer = np.array([float(one.longer) for one in outcomes])
    if (why_not := _unfit(scores, longer)) is not None:
        return EqualLength(n=n, why_not=why_not)
    fit = _Regression(np.tanh(longer / longer.std()), scores)
    low, high = _bounds([fit(weights) for weights in _draws(n, seed)])
    return EqualLength(rate=fit(np.ones(n)), low=low, high=high, n=n)


def longer_wins(outcomes: Sequence[Outcome]) -> float | None:
    """The share that the longer reply won, of the comparisons that one of unequal replies won; None without any."""
    decided = [one for one in outcomes if one.score != 0.5 and one.longer]
    return sum((one.score > 0.5) == (one.longer > 0) for one in decided) / len(decided) if decided else None


def _unfit(scores: Any, longer: Any) -> str | None:
    """Why no regression can be fitted; None where one can."""
    wins = scores.sum()
    if min(wins, len(scores) - wins) < EVENTS:
        return f"fewer than {EVENTS} wins or {EVENTS} losses, a tie being half of each"
    if scores.std() == 0:
        return "nothing but ties"
    return "all replies differ equally in length" if longer.std() == 0 else None


class _Regression:
    """The prediction for equal length, of a draw of the comparisons; scikit-learn's Newton solver fits each in 2 ms."""

    def __init__(self, lengths: Any, scores: Any) -> None:
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        self._scores = scores
        self._model = LogisticRegression(C=WEAK, solver="newton-cholesky")
        self._lengths = np.concatenate([lengths, lengths])[
            :, None
        ]  # each comparison as a win and as a loss …
        self._won = np.repeat([1, 0], len(lengths))

    def __call__(self, weights: Any) -> float:
        import numpy as np
        from scipy.special import expit
        from sklearn import config_context

        wins, losses = weights * self._scores, weights * (1 - self._scores)  # … by how much it was either
        if not (wins.any() and losses.any()):
            return float(wins.any())
        with config_context(assume_finite=True, skip_parameter_validation=True):
            self._model.fit(self._lengths, self._won, sample_weight=np.concatenate([wins, losses]))
        return float(expit(self._model.intercept_[0]))


def _draws(n: int, seed: int) -> Iterator[Any]:
    """How often each of `n` comparisons is in each draw. By their places, so that exchanging the sides mirrors all."""
    import numpy as np

    generator, chances = np.random.default_rng(seed), np.full(n, 1 / n)
    for _ in range(DRAWS):
        yield generator.multinomial(n, chances)


def _bounds(drawn: Sequence[float]) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
