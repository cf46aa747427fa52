"""The checks between reading the rows and loading the model: cheap beside the training, and each ends in a number.

What they find is printed to the log, a line each, and becomes part of the training's report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from cai.config.training import REWARDED
from cai.errors import ConfigError
from cai.train import lengths, machine, needs
from cai.train.findings import Findings, Texts, told
from cai.train.plan import TrainPlan


def preflight(
    plan: TrainPlan, args: Any, peft_config: Any, tokenizer: Any, rows: Any, texts: Texts
) -> tuple[Any, Findings]:
    """The rows to train on and the findings; every process of the training calls it, and finds the same.

    `texts`: what was found when the rows were read.

    Raises ConfigError for a chat template that cannot be trained with, rows that would be cut, and a full disk.
    """
    template = chat_template(plan, args, tokenizer)
    if getattr(args, "assistant_only_loss", False):
        _require_markers(plan, tokenizer, template)
    counts = None
    if plan.kind not in REWARDED:
        measuring = AutoTokenizer.from_pretrained(plan.model, chat_template=template)
        rows, counts = lengths.checked_rows(plan, args, measuring, rows)
    found = Findings(
        rows=counts,
        needs=needs.estimate(plan, args, peft_config, len(rows)),
        machine=machine.detect(args),
        texts=texts,
    )
    if args.process_index == 0:
        print(*told(found), sep="\n", flush=True)  # noqa: T201 - the training's log
    return rows, found


def chat_template(plan: TrainPlan, args: Any, tokenizer: Any) -> str:
    """The chat template that TRL will train with. Raises ConfigError where there is none."""
    path = getattr(args, "chat_template_path", None)
    if path is not None and Path(path).is_file():
        return Path(path).read_text(encoding="utf-8")
    template: str | None = (
        tokenizer.chat_template if path is None else AutoTokenizer.from_pretrained(path).chat_template
    )
    if template is None:
        fix = (
            f"name one in {plan.kind}.args.chat_template_path"
            if plan.kind in ("sft", "reward")
            else f"{plan.kind} needs a model that was trained to chat"
        )
        raise ConfigError(f"{path or plan.model}: has no chat template; {fix}")
    return template


def _require_markers(plan: TrainPlan, tokenizer: Any, template: str) -> None:
    """A loss on the assistant's turns alone needs a template that marks them; TRL marks those that it knows."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(template):
        return
    try:
        get_training_chat_template(tokenizer)
    except ValueError as error:
        raise ConfigError(
            f"{plan.kind}.args.assistant_only_loss: the chat template of {plan.model} has no "
            "{% generation %} markers, and TRL has none for it; leave it out (the loss is on the completion "
            f"alone as it is), or name a template that has them in {plan.kind}.args.chat_template_path"
        ) from error
