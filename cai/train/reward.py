"""A reward model from judged pairs: Bradley-Terry, with each pair's log-odds as the margin to reach (RewardTrainer).

It is the starting model with a head that gives one number, published as a sequence-classification folder.
"""

from __future__ import annotations

from trl import RewardTrainer

from cai.train.data import pairs_with_margin
from cai.train.fit import fit
from cai.train.plan import TrainPlan


def train(plan: TrainPlan) -> None:
    """Train on `prompt`/`chosen`/`rejected`/`margin` rows."""
    fit(plan, RewardTrainer, pairs_with_margin)
