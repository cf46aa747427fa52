"""The command line of `accelerate launch` for a training, and the config files for it that come with the package.

`accelerate: {config_file: 8gpu-fsdp2}` in a training's section takes the shipped file of that name; any other value
is the path of one's own. Imports no torch.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cai.errors import ConfigError
from cai.train.plan import PLAN, TrainPlan
from cai.train.refuse import config_path

# What `accelerate launch` would otherwise guess, with a warning for each guess.
_ACCELERATE = {"num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
# Where each machine of several finds what differs among them: the names that torchrun and its operators use.
FROM_ENVIRONMENT = {
    "machine_rank": "NODE_RANK",
    "main_process_ip": "MASTER_ADDR",
    "main_process_port": "MASTER_PORT",
}
PORT = "29500"


def command(plan: TrainPlan, lifeline: bool = True) -> list[str]:
    """What trains by the plan in the output folder. `lifeline`: end when standard input closes.

    Raises ConfigError for a training on several machines that does not know where the first one is.
    """
    options = dict(plan.accelerate)
    if "config_file" in options:
        options["config_file"] = str(config_path(options["config_file"]))
    if _machines(options) > 1:
        options = _place(plan) | options
    flags = accelerate_flags(options, cpu=bool(plan.args.get("use_cpu")))
    main = ["-m", "cai.train.main", str(Path(plan.out) / PLAN), *(["--lifeline"] if lifeline else [])]
    return [sys.executable, "-m", "accelerate.commands.launch", *flags, *main]


def accelerate_flags(options: Mapping[str, Any], cpu: bool) -> list[str]:
    """`accelerate launch` flags from option names and values; true is a bare flag, false leaves it out."""
    merged = dict(options)
    if "config_file" not in options:
        merged = _ACCELERATE | ({"cpu": True, "num_processes": 1} if cpu else {}) | merged
    flags: list[str] = []
    for name, value in merged.items():
        if value is True:
            flags.append(f"--{name}")
        elif value is not False and value is not None:
            flags += [f"--{name}", str(value)]
    return flags


def wants_deepspeed(options: Mapping[str, Any]) -> bool:
    """Whether a section's `accelerate` options, or the file that they name, ask for DeepSpeed."""
    if options.get("use_deepspeed"):
        return True
    if (given := options.get("config_file")) is None:
        return False
    read = yaml.safe_load(config_path(given).read_text(encoding="utf-8"))
    return isinstance(read, dict) and read.get("distributed_type") == "DEEPSPEED"


def require_deepspeed(kind: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError where a section's `accelerate` options want DeepSpeed and it cannot be imported here."""
    given = options.get("config_file")
    if wants_deepspeed(options) and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"{kind}.accelerate: {given or 'use_deepspeed'}: DeepSpeed is not installed here; "
            "pip install 'cai[deepspeed]', or take an fsdp2 file"
        )


def _machines(options: Mapping[str, Any]) -> int:
    given = options.get("num_machines")
    if given is None and "config_file" in options:
        given = yaml.safe_load(Path(options["config_file"]).read_text(encoding="utf-8")).get("num_machines")
    return int(given or 1)


def _place(plan: TrainPlan) -> dict[str, str]:
    """Which machine this is and where the first one is, as far as the section does not say."""
    place = {"main_process_port": PORT}
    for option, name in FROM_ENVIRONMENT.items():
        if name in os.environ:
            place[option] = os.environ[name]
        elif option not in place and option not in plan.accelerate:
            raise ConfigError(
                f"{plan.kind}.accelerate.{option}: the training is on several machines; set {name} in the environment "
                "of each (the number of the machine from 0 in NODE_RANK, the address of machine 0 in MASTER_ADDR)"
            )
    return place
