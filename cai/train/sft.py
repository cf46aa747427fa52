"""Supervised fine-tuning on demonstrations: imitate the completion, given the prompt (TRL's SFTTrainer)."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer
from trl import SFTTrainer

from cai.errors import ConfigError
from cai.train.data import load_rows
from cai.train.metrics import MetricsLog
from cai.train.options import lora_config, trl_config
from cai.train.plan import METRICS, TrainPlan
from cai.train.publish import publish


def train_sft(plan: TrainPlan) -> None:
    """Train on `prompt`/`completion` rows. The loss is on the completion alone, its end token included."""
    args = trl_config("sft", plan.args, output_dir=str(plan.work))
    peft_config = lora_config(plan.lora, "sft.lora")
    rows = load_rows(plan, ("prompt", "completion"))
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    if tokenizer.chat_template is None and args.chat_template_path is None:
        raise ConfigError(f"{plan.model}: has no chat template; name one in sft.args.chat_template_path")
    trainer = SFTTrainer(
        model=plan.model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[MetricsLog(Path(plan.out) / METRICS)],
    )
    trainer.train(resume_from_checkpoint=plan.resume_from)
    publish(trainer, plan)
