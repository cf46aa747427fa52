"""Wrong labels put into exported pairs, and how sure a calibrated labeller is of each label that it gives.

Two labellers that are wrong equally often. The `symmetric` one errs with one probability everywhere, so all that it
can say of a label is that number. The `instance` one hears the truth through Gaussian noise (equal-variance signal
detection): with t = ±1 the better side, it hears x = t·μ + N(0, 1), names the side of x's sign, and is right with
the probability σ(2μ|x|), which it can say of each label. Its error rate is Φ(−μ). Of all its labels with that
probability so many are right: it is calibrated by construction, and its errors lie where it is unsure.

A flip is never seen by who trains: the row's p is what the labeller says of its label, wrong or not. Draws are by
seed and pair, the same for every method, and a pair flipped at one rate is flipped at every higher one.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

from cai.judge.label import margin

Noise = Literal["symmetric", "instance"]


class Label(NamedTuple):
    """What a labeller makes of a pair: is its label wrong, and with which probability does it say that it is right."""

    flipped: bool
    right: float


def label(noise: Noise, rate: float, seed: int, pair: str) -> Label:
    """The label of a pair by a labeller that is wrong at `rate`. Raises ValueError unless 0 ≤ rate < 0.5."""
    if not 0 <= rate < 0.5:
        raise ValueError(f"{rate} of the labels wrong: give a share from 0 up to, not including, one half")
    rng = random.Random(f"{seed}/{noise}/{pair}")
    if rate == 0:
        return Label(False, 1.0)
    if noise == "symmetric":
        return Label(rng.random() < rate, 1 - rate)
    mean = -NormalDist().inv_cdf(rate)
    heard = mean + rng.gauss()
    return Label(heard < 0, 1 / (1 + math.exp(-2 * mean * abs(heard))))


def relabel(row: dict[str, Any], given: Label) -> dict[str, Any]:
    """A pair that is right, as the labeller would have exported it."""
    chosen, rejected = ("rejected", "chosen") if given.flipped else ("chosen", "rejected")
    changed = {"chosen": row[chosen], "rejected": row[rejected]}
    return row | changed | {"p": given.right, "margin": margin(given.right)}
