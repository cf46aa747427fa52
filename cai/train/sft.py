"""Supervised fine-tuning on demonstrations: imitate the completion, given the prompt (TRL's SFTTrainer).

The loss is on the completion alone, its end token included.
"""

from __future__ import annotations

from trl import SFTTrainer

from cai.train.data import demonstrations
from cai.train.fit import fit
from cai.train.plan import TrainPlan


def train(plan: TrainPlan) -> None:
    """Train on `prompt`/`completion` rows."""
    fit(plan, SFTTrainer, demonstrations)
