"""What all trainings have in common: options and tokenizer in, checks, TRL's trainer run to the end, the model out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import AutoTokenizer

from cai.errors import ConfigError
from cai.models.turns import TurnTokens, tokens_of
from cai.train.data import writable
from cai.train.findings import Texts
from cai.train.metrics import MetricsLog
from cai.train.options import lora_config, trl_config
from cai.train.plan import METRICS, TrainPlan
from cai.train.preflight import chat_template, preflight
from cai.train.publish import publish, revision_of


def fit(
    plan: TrainPlan, trainer: Callable[..., Any], read: Callable[[TrainPlan, TurnTokens], Any], **more: Any
) -> None:
    """Train with `trainer`, one of TRL's, on the rows that `read` gives; `more`: what only this one takes.

    Raises ConfigError for options, rows or a model that cannot be trained with.
    """
    args = trl_config(plan.kind, plan.args, output_dir=str(plan.work))
    peft_config = lora_config(plan.kind, plan.lora)
    plan = _agreed(plan, args)
    args.model_init_kwargs = {"use_safetensors": True, **(args.model_init_kwargs or {})}  # never a pickle
    tokenizer = AutoTokenizer.from_pretrained(plan.model, revision=revision_of(plan))
    turns = tokens_of(tokenizer, chat_template(plan, args, tokenizer))
    with args.main_process_first(local=False, desc="reading the rows"):
        rows, defused, unwritable = writable(read(plan, turns))
    if not len(rows):
        raise ConfigError(f"{plan.data}: every row holds half a surrogate pair, so none can be trained on")
    rows, found = preflight(
        plan, args, peft_config, tokenizer, rows, Texts(defused=defused, unwritable=unwritable)
    )
    log = MetricsLog(Path(plan.out) / METRICS)
    built = trainer(
        model=plan.model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[log],
        **more,
    )
    built.train(resume_from_checkpoint=plan.resume_from)
    publish(built, plan, found, log.speed())


def _agreed(plan: TrainPlan, args: Any) -> TrainPlan:
    """The plan with the first process's checkpoint: another machine may have read it before it was written anew."""
    if args.world_size == 1:
        return plan
    (first,) = broadcast_object_list([plan.model_dump()])
    if first["digest"] != plan.digest:
        raise ConfigError(
            f"{plan.out}: this machine has the plan of another training; start it after machine 0"
        )
    return plan.model_copy(update={"resume_from": first["resume_from"]})


def loading(trainer: Callable[..., Any]) -> Callable[..., Any]:
    """An experimental trainer of TRL's that gets its model as the stable ones load it: float32 master weights.

    On its own it would load the dtype of the folder, and spread the model over devices by itself.
    """
    from trl.trainer.utils import create_model_from_path

    def build(*, model: str, args: Any, **rest: Any) -> Any:
        loaded = create_model_from_path(model, **(args.model_init_kwargs or {}))
        args.model_init_kwargs = None
        return trainer(model=loaded, args=args, **rest)

    return build
