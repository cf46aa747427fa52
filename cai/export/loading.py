"""How the reader of each format is pointed at the files: what to write, and the files that it wants beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
import yaml

from cai.export.formats import FormatName
from cai.sources.records import GUARDED


class Loading(NamedTuple):
    """What a person writes to load an export, in which language, and what is to be known of it."""

    language: str
    code: str
    note: str = ""


def _trl(trainer: str, more: str = "") -> str:
    return (
        "from datasets import load_dataset\n"
        f"from trl import {trainer}\n\n"
        f'data = load_dataset("FOLDER"){more}\n'
        f'trainer = {trainer}("MODEL", train_dataset=data["train"], eval_dataset=data["eval"])'
    )


_UPLOAD = (
    "from openai import OpenAI\n\n"
    "client = OpenAI()\n"
    'file = client.files.create(file=open("FOLDER/train.jsonl", "rb"), purpose="fine-tune")\n'
    'client.fine_tuning.jobs.create(model="MODEL", training_file=file.id, method={"type": "METHOD"})'
)
LOADING: dict[FormatName, Loading] = {
    "trl": Loading("python", _trl("DPOTrainer")),
    "sft": Loading("python", _trl("SFTTrainer")),
    "kto": Loading(
        "python",
        _trl("KTOTrainer", ".shuffle(seed=0)"),
        "The replies of a pair follow one another, and KTO measures its KL on the other replies of a batch: shuffle.",
    ),
    "reward": Loading(
        "python",
        _trl("RewardTrainer"),
        "The trainer subtracts `margin` in its loss; leave the column out for the plain loss.",
    ),
    "axolotl": Loading(
        "sh",
        "axolotl train config.yaml  # with `base_model:` and the lines of axolotl.yaml in it, run in FOLDER",
        "Axolotl cuts blanks off the end of a reply, and looks for a reply's text in a rendered turn: a reply of a "
        "word or less that also stands in the chat template comes out wrong there.",
    ),
    "llama-factory": Loading(
        "sh",
        "llamafactory-cli train --stage dpo --do_train --model_name_or_path MODEL --dataset_dir FOLDER "
        "--dataset NAME_train --eval_dataset NAME_eval --template qwen3 --output_dir OUT",
        "`--template` is the name of the model's chat template there.",
    ),
    "openrlhf": Loading(
        "sh",
        "python -m openrlhf.cli.train_dpo --data.dataset FOLDER/train.jsonl --eval.dataset FOLDER/eval.jsonl "
        "--data.chosen_key chosen --data.rejected_key rejected --data.apply_chat_template",
        "Before OpenRLHF 0.10 the options are `--dataset`, `--chosen_key`, `--rejected_key`, `--apply_chat_template`.",
    ),
    "openai": Loading("python", _UPLOAD.replace("METHOD", "dpo")),
    "openai-sft": Loading("python", _UPLOAD.replace("METHOD", "supervised")),
    "anthropic-hh": Loading(
        "python",
        'from datasets import load_dataset\n\ndata = load_dataset("FOLDER")\ndata["train"][0]["chosen"]',
    ),
    "csv": Loading(
        "python",
        'import pandas\n\nrows = pandas.read_csv("FOLDER/train.csv", keep_default_na=False)',
        "Cells that begin as a formula would (`=`, `+`, `-`, `@`, their wide forms, a tab or a new line) have an "
        f"apostrophe before them, and the column `{GUARDED}` names them; `cai` takes it off when it reads the file. "
        "`turns_before` is the conversation before the prompt, as JSON.",
    ),
    "stepwise": Loading(
        "python",
        'from datasets import load_dataset\n\ndata = load_dataset("FOLDER")\ndata["train"][0]["labels"]',
        "`prompt` is plain text, as the format has it, and `messages` the same as turns; steps after the first bad one "
        "have no label and are not here.",
    ),
}


def loading_of(format: FormatName, run: str) -> Loading:
    """How an export of a run is loaded; FOLDER, MODEL and OUT are left to fill in."""
    found = LOADING[format]
    return found._replace(code=found.code.replace("NAME", dataset_name(run)))


def files_beside(format: FormatName, run: str, splits: Sequence[str]) -> dict[str, bytes]:
    """The files that a reader wants beside the rows, by name."""
    if format == "llama-factory":
        info = {f"{dataset_name(run)}_{split}": _info(f"{split}.jsonl") for split in splits}
        return {"dataset_info.json": orjson.dumps(info, option=orjson.OPT_INDENT_2) + b"\n"}
    if format == "axolotl":
        keys = {"train": "datasets", "eval": "test_datasets"}
        config = {"rl": "dpo"} | {keys[split]: [_axolotl(split)] for split in splits}
        return {"axolotl.yaml": yaml.safe_dump(config, sort_keys=False).encode()}
    return {}


def dataset_name(run: str) -> str:
    """A run's name as a name that needs no quotes anywhere."""
    return re.sub(r"[^A-Za-z0-9_]", "_", run) or "run"


def _info(file: str) -> dict[str, Any]:
    """An entry of LLaMA-Factory's dataset_info.json."""
    return {
        "file_name": file,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        "tags": {
            "role_tag": "from",
            "content_tag": "value",
            "user_tag": "human",
            "assistant_tag": "gpt",
            "system_tag": "system",
        },
    }


def _axolotl(split: str) -> dict[str, Any]:
    """An entry of Axolotl's `datasets`."""
    return {
        "path": f"{split}.jsonl",
        "ds_type": "json",
        "split": "train",  # what `datasets` calls the rows of a single file
        "type": "chat_template.default",
        "field_messages": "messages",
        "field_chosen": "chosen",
        "field_rejected": "rejected",
    }
