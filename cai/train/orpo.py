"""Odds ratio preference optimization (TRL's ORPOTrainer): SFT and preference in one loss, without a reference."""

from __future__ import annotations

from trl.experimental.orpo import ORPOTrainer

from cai.train.data import pairs
from cai.train.fit import fit, loading
from cai.train.plan import TrainPlan


def train(plan: TrainPlan) -> None:
    """Train on `prompt`/`chosen`/`rejected` rows."""
    fit(plan, loading(ORPOTrainer), pairs)
