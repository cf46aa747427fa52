"""Direct preference optimization on judged pairs (TRL's DPOTrainer), by any of TRL's losses or with soft labels.

The reference is the model that training starts from. Its log-probabilities are computed once, before the
first step (`precompute_ref_log_probs`), so that no second model stays in memory; also after a resume they
come from the starting model, never from the checkpoint.
"""

from __future__ import annotations

from trl import DPOTrainer

from cai.train.data import labelled_pairs, pairs
from cai.train.fit import fit
from cai.train.plan import TrainPlan


def train(plan: TrainPlan) -> None:
    """Train on `prompt`/`chosen`/`rejected` rows; with soft labels, on the `p` of each too."""
    if plan.soft_labels is False:
        fit(plan, DPOTrainer, pairs)
    else:
        from cai.train.soft import SoftDPOTrainer

        fit(plan, SoftDPOTrainer, labelled_pairs)
