"""Kahneman-Tversky optimization (TRL's KTOTrainer): each reply of a pair by itself, desirable or not."""

from __future__ import annotations

from trl import KTOTrainer

from cai.train.data import unpaired
from cai.train.fit import fit
from cai.train.plan import TrainPlan


def train(plan: TrainPlan) -> None:
    """Train on the chosen replies as desirable, on the rejected ones as undesirable."""
    fit(plan, KTOTrainer, unpaired)
