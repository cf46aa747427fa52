"""REINFORCE leave-one-out (TRL's RLOOTrainer): own replies, scored by the reward model, close to the reference."""

from __future__ import annotations

from trl import RLOOTrainer

from cai.train.data import prompts
from cai.train.fit import fit
from cai.train.plan import TrainPlan


def train(plan: TrainPlan) -> None:
    """Train on the prompts of preference rows; `beta` weighs the KL to the model that training starts from."""
    fit(plan, RLOOTrainer, prompts, reward_funcs=plan.reward_model)
