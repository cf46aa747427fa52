"""Contrastive preference optimization (TRL's CPOTrainer), without a reference; `loss_type: simpo` makes it SimPO."""

from __future__ import annotations

from trl.experimental.cpo import CPOTrainer

from cai.train.data import pairs
from cai.train.fit import fit, loading
from cai.train.plan import TrainPlan


def train(plan: TrainPlan) -> None:
    """Train on `prompt`/`chosen`/`rejected` rows."""
    fit(plan, loading(CPOTrainer), pairs)
