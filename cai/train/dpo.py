"""Direct preference optimization on judged pairs (TRL's DPOTrainer).

The reference is the model that training starts from. Its log-probabilities are computed once, before the
first step (`precompute_ref_log_probs`), so that no second model stays in memory; also after a resume they
come from the starting model, never from the checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer
from trl import DPOTrainer

from cai.errors import ConfigError
from cai.train.data import load_rows
from cai.train.metrics import MetricsLog
from cai.train.options import lora_config, trl_config
from cai.train.plan import METRICS, TrainPlan
from cai.train.publish import publish


def train_dpo(plan: TrainPlan) -> None:
    """Train on `prompt`/`chosen`/`rejected` rows; every other column of a row is left unread."""
    args = trl_config("dpo", plan.args, output_dir=str(plan.work))
    peft_config = lora_config(plan.lora, "dpo.lora")
    rows = load_rows(plan, ("prompt", "chosen", "rejected"))
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    if tokenizer.chat_template is None:
        raise ConfigError(f"{plan.model}: has no chat template; DPO needs a model that was trained to chat")
    trainer = DPOTrainer(
        model=plan.model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[MetricsLog(Path(plan.out) / METRICS)],
    )
    trainer.train(resume_from_checkpoint=plan.resume_from)
    publish(trainer, plan)
