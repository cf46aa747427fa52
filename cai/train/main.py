"""The process that trains. `cai.train.launch` starts it through accelerate; by hand:

    accelerate launch -m cai.train.main OUT/cai_train.yaml

With `--check` it reads `{"sft": {…}, "dpo": {…}}` (training sections) from standard input, prints the first
problem and exits 2, or exits 0; nothing is loaded or trained.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

import yaml

from cai.config.training import section_type
from cai.errors import ConfigError
from cai.process import end_with_parent
from cai.train.plan import TrainPlan


def main() -> int:
    """Parse the command line and train, or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", nargs="?", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--lifeline", action="store_true", help="end when standard input closes")
    options = parser.parse_args()
    if options.check:
        return check(sys.stdin.read())
    if options.lifeline:
        end_with_parent()
    train(TrainPlan.model_validate(yaml.safe_load(options.plan.read_text(encoding="utf-8"))))
    return 0


def train(plan: TrainPlan) -> None:
    """Run the plan's trainer; imported here, so that the lifeline is held before the seconds of imports."""
    import_module(f"cai.train.{plan.kind}").train(plan)


def check(request: str) -> int:
    """Validate training sections given as JSON; the problem goes to standard output."""
    try:
        from cai.train.options import check_section
    except ImportError as error:
        print(f"training needs more packages ({error}): pip install 'cai[train]'")  # noqa: T201
        return ConfigError.exit_code
    try:
        for kind, section in json.loads(request).items():
            check_section(kind, section_type(kind).model_validate(section))
    except ConfigError as error:
        print(error)  # noqa: T201
        return ConfigError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
