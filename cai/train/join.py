"""The other machines of a training that is on several. Machine 0 runs `cai train`; each of the others runs, after it:

    NODE_RANK=1 MASTER_ADDR=<machine 0> python -m cai.train.join OUT/cai_train.yaml

OUT is the model's folder in the run, on a disk that all of them share. Its output goes to the terminal.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import yaml

from cai.errors import ConfigError
from cai.train.accelerated import command
from cai.train.launch import environment
from cai.train.plan import TrainPlan


def join(path: Path) -> None:
    """Become the launcher of this machine's processes. Raises ConfigError where there is no plan, or no machine 0."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such plan; machine 0 writes it when it starts to train")
    plan = TrainPlan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    line = command(plan, lifeline=False)
    os.execve(line[0], line, environment(plan))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path)
    try:
        join(parser.parse_args().plan)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
