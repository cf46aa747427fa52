"""Option names and values into TRL's, peft's and accelerate's own types; the only place that parses them.

An unknown name is a ConfigError with the nearest known one. Values go through transformers' argument parser,
which also turns what YAML reads as text (`2e-5`) into the number that it means.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NoReturn

from peft import LoraConfig
from transformers import HfArgumentParser
from yaml import YAMLError

from cai.config import Kind, TrainingConfig
from cai.config.training import MEASURED
from cai.errors import ConfigError
from cai.train.plan import CPU_DEFAULTS, DEFAULTS
from cai.train.refuse import config_path

# Where TRL keeps the options of each trainer; imported one by one, because each costs time.
CONFIGS: dict[Kind, tuple[str, str]] = {
    "sft": ("trl", "SFTConfig"),
    "dpo": ("trl", "DPOConfig"),
    "kto": ("trl", "KTOConfig"),
    "orpo": ("trl.experimental.orpo.orpo_config", "ORPOConfig"),
    "cpo": ("trl.experimental.cpo.cpo_config", "CPOConfig"),
    "reward": ("trl", "RewardConfig"),
    "rloo": ("trl", "RLOOConfig"),
    "grpo": ("trl", "GRPOConfig"),
}


class _Parser(HfArgumentParser):
    """Raises instead of printing the usage of 200 options and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(re.sub(r"^argument --(\w+)\S*: ", r"\1: ", message))


def trl_config(kind: Kind, args: dict[str, Any], output_dir: str) -> Any:
    """The trainer's own config (SFTConfig, DPOConfig …) with `args`. Raises ConfigError naming the option at fault."""
    module, name = CONFIGS[kind]
    parser = _Parser(getattr(import_module(module), name))
    actions = {action.dest: action for action in parser._actions}
    refuse_unknown(f"{kind}.args", args, actions)
    for name, value in args.items():
        action = actions[name]
        if isinstance(value, int | float) and not isinstance(value, bool) and action.type in (int, float):
            value = str(value)
        if isinstance(value, str) and action.nargs in ("+", "*"):
            value = [value]
        parser.set_defaults(**{name: value})
    try:
        (config,) = parser.parse_args_into_dataclasses(args=["--output_dir", output_dir])
    except (ConfigError, ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise ConfigError(f"{kind}.args: {_one_line(error)}") from error
    return config


def lora_config(kind: Kind, options: dict[str, Any] | None) -> Any | None:
    """peft's LoraConfig; every linear layer but the head, unless `target_modules` says otherwise.

    A reward model's head is new, so it is trained in full beside the adapter.
    """
    if options is None:
        return None
    refuse_unknown(f"{kind}.lora", options, [field.name for field in dataclasses.fields(LoraConfig)])
    own = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]} if kind == "reward" else {}
    defaults = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"} | own
    try:
        return LoraConfig(**(defaults | options))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{kind}.lora: {_one_line(error)}") from error


def refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError for the first name of `given` that is not `known`."""
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}.{name}: unknown option{hint}")


def check_section(kind: Kind, config: TrainingConfig) -> None:
    """Build everything that `config` describes, on CPU so that no device is asked for, and throw it away."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    trl_config(kind, CPU_DEFAULTS | DEFAULTS[kind] | _checkable(config.args), output_dir="unused")
    lora_config(kind, config.lora)
    actions = launch_command_parser()._actions
    flags = [option.lstrip("-") for action in actions for option in action.option_strings]
    refuse_unknown(f"{kind}.accelerate", config.accelerate, flags)
    if (given := config.accelerate.get("config_file")) is not None:
        try:
            load_config_from_file(str(config_path(given)))
        except (ValueError, TypeError, AttributeError, YAMLError) as error:
            raise ConfigError(f"{kind}.accelerate.config_file: {_one_line(error)}") from error


def _checkable(args: dict[str, Any]) -> dict[str, Any]:
    """A run may be checked on another machine than the one with the GPU, and before its judge is measured."""
    kept = {name: value for name, value in args.items() if name not in ("use_cpu", "bf16", "fp16", "tf32")}
    return kept | ({"label_smoothing": 0.1} if kept.get("label_smoothing") == MEASURED else {})


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
