"""`python -m tests.faults [--only WORDS] [--times FACTOR] [--seed N] [--list]`: the soak, as `make soak` starts it.

The table of docs/reliability.md is written by a whole soak only, or where --page asks for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults.soak import PAGE, run, scenarios

OUT = Path("outputs") / "soak.json"


def main() -> int:
    """Run the scenarios, or list them."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORDS", help="scenarios with these words in their name"
    )
    parser.add_argument("--times", type=float, default=1.0, metavar="FACTOR", help="more or fewer injections")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="where the JSON goes")
    parser.add_argument(
        "--page", action="store_true", help="write the table of docs/reliability.md in any case"
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios, and run none")
    arguments = parser.parse_args()
    if arguments.list:
        for name, (_, times) in scenarios().items():
            print(f"{times:>4} × {name}")  # noqa: T201
        return 0
    whole = not arguments.only and arguments.times >= 1
    page = PAGE if whole or arguments.page else None
    return run(arguments.only, arguments.seed, arguments.times, arguments.out, page)


if __name__ == "__main__":
    sys.exit(main())
