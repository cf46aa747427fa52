"""Is a promised accuracy kept? Choose the threshold on one half of the labelled pairs, measure on the other.

Over many random halves the promise may be broken in at most `--risk` of them; that share, with what was kept, is
printed as one JSON object. `measured_broken` counts halves whose measured accuracy is below the target; halving
the pairs makes the other half a noisy ruler, so it overstates what is broken on new pairs. With `--truth`, the
pairs are drawn anew from a known world (a logistic judge, surest where it is right) and the accuracy of what a
threshold keeps is exact: there the risk is checked without a ruler.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from pathlib import Path

from cai.judge.cases import Case, hit, orders_of, outcome
from cai.judge.fit import Settings, fit_rule
from cai.judges.labelled import read_recording


def halves(cases: list[Case], settings: Settings, count: int, seed: int) -> dict[str, float | None]:
    """Choose on one half, measure on the other, `count` times."""
    rng = random.Random(seed)
    broken, kept, accuracies, coverages = 0, 0, [], []
    for _ in range(count):
        shuffled = rng.sample(cases, len(cases))
        middle = len(shuffled) // 2
        rule = fit_rule(shuffled[:middle], settings)
        if rule.threshold is None:
            continue
        orders = orders_of(shuffled)
        found = [(outcome(case, rule, orders), case) for case in shuffled[middle:]]
        right = [hit(o.p, case.gold) for o, case in found if o.kept and o.p is not None]
        kept += 1
        coverages.append(len(right) / len(found))
        if right:
            accuracies.append(sum(right) / len(right))
            broken += accuracies[-1] < (settings.target or 0)
    return {
        "halves": count,
        "with_a_threshold": kept,
        "measured_broken": broken / count,
        "mean_accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "mean_coverage": sum(coverages) / count,
    }


def truth(settings: Settings, pairs: int, count: int, seed: int) -> dict[str, float | None]:
    """The same with labelled pairs from a world whose accuracy above any threshold is known exactly."""
    rng = random.Random(seed)
    grid = [_accuracy(0.5 + index / 20000) for index in range(10001)]  # P(right) at each confidence
    above = [0.0] * 10002
    for index in range(10000, -1, -1):
        above[index] = above[index + 1] + grid[index]
    broken = kept = 0
    for _ in range(count):
        cases = []
        for number in range(pairs):
            sure = 0.5 + rng.random() / 2
            gold = "A" if rng.random() < _accuracy(sure) else "B"
            cases.append(Case(str(number), gold, sure, None, 0.5))  # type: ignore[arg-type]
        threshold = fit_rule(cases, settings).threshold
        if threshold is not None:
            kept += 1
            index = min(round((threshold - 0.5) * 20000), 10000)
            broken += above[index] / (10001 - index) < (settings.target or 0)
    return {"worlds": count, "with_a_threshold": kept, "broken": broken / count}


def _accuracy(sure: float) -> float:
    """An overconfident judge: right less often than it says."""
    return 1 / (1 + math.exp(-0.45 * math.log(sure / (1 - sure + 1e-9))))


def main() -> None:
    """Parse, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="verdict replay file")
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--target-accuracy", type=float, default=0.85)
    parser.add_argument("--risk", type=float, default=0.1)
    parser.add_argument("--halves", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=500, help="pairs of a drawn world")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = Settings(None, target=options.target_accuracy, risk=options.risk)
    found: dict[str, object] = {"target_accuracy": options.target_accuracy, "risk": options.risk}
    if options.truth:
        found |= truth(settings, options.pairs, options.halves, options.seed)
    elif options.file:
        found |= halves(read_recording(options.file).cases, settings, options.halves, options.seed)
    else:
        parser.error("give a verdict replay file, or --truth")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
