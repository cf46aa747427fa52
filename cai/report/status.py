"""What a run has done so far, read from its folder alone: the same numbers in every report, table and artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson

from cai.accounts.spending import read_spent
from cai.config.training import KINDS, POLICIES, models_of
from cai.errors import ConfigError, StoreError
from cai.given import read_given
from cai.judges.stages import labelled_file, member_stages, qualify_stage
from cai.models.metrics import read_engines
from cai.report.judges import Judges, JudgeUse, judges_of
from cai.report.live import read_live, running
from cai.report.rounds import rounds_done
from cai.rounds import rounds_in
from cai.shard import ShardReport, read_manifest
from cai.stages.combine import ROW_CAUSES
from cai.stepwise import PART, STEPS, states_of
from cai.store import guard

JUDGED = ("judge", "sft-judge")


def judged_stages(rounds: int) -> tuple[str, ...]:
    """The stages whose judgments a run may have, in order; `rounds`: of DPO."""
    return ("judge", *(one.judge for one in rounds_in(rounds)))


def stage_names(judges: Sequence[str], rounds: int = 1, stepwise: bool = False) -> list[str]:
    """The stages up to the dataset, in order.

    `judges`: the members of the run's jury or cascade, if it has one; `rounds`: of DPO; `stepwise`: steps are judged.
    """
    names = ["prompts", "generate", "revise", *member_stages(judges, "judge"), "judge"]
    for one in rounds_in(rounds):
        names += [one.generate, *member_stages(judges, one.judge), one.judge, one.pairs]
        names.append("demonstrations" if one.number == 1 else one.replay)
    return [*names, STEPS, PART] if stepwise else names


def shard_reports(root: Path, stage: str) -> list[ShardReport]:
    """The manifests of a stage's finished shards, in order."""
    found = (read_manifest(path) for path in sorted((root / stage).glob("manifest-*.json")))
    return [report for report in found if report is not None]


def summed(reports: list[ShardReport]) -> dict[str, Any]:
    """Rows, drops by reason, calls, failed attempts by class, tokens and cost over shards.

    The cost is in US dollars, None where a price is unknown.

    `defused`: turn tokens in prompts that were broken up on their way to the model.
    """
    drops: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for report in reports:
        drops.update(report.drops)
        failed.update(report.failed_attempts)
    costs = [report.cost for report in reports]
    return {
        "shards": len(reports),
        "rows_in": sum(report.rows_in for report in reports),
        "rows_out": sum(report.rows_out for report in reports),
        "drops": dict(sorted(drops.items())),
        "calls": sum(report.calls_made + report.calls_replayed for report in reports),
        "failed_attempts": dict(sorted(failed.items())),
        "prompt_tokens": sum(report.prompt_tokens for report in reports),
        "completion_tokens": sum(report.completion_tokens for report in reports),
        "defused": sum(report.defused for report in reports),
        "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
        "seconds": round(sum(report.seconds for report in reports), 1),
    }


def in_all(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Calls, tokens and cost over all stages; the cost is None where that of a stage is."""
    costs = [stage["cost"] for stage in stages.values()]
    counted = ("calls", "prompt_tokens", "completion_tokens")
    total = {count: sum(stage[count] for stage in stages.values()) for count in counted}
    return {**total, "cost": None if None in costs else sum(costs)}


def members_of(judge: Mapping[str, Any]) -> tuple[Literal["jury", "cascade"], list[str]] | None:
    """How the several judges of a stored judge section work together, and their names; None for a single judge."""
    if jury := judge.get("jury"):
        return "jury", list(jury)
    return ("cascade", list(cascade)) if (cascade := judge.get("cascade")) else None


def judges_used(root: Path, judge: Mapping[str, Any], stage: str) -> Judges | None:
    """What the judges of a stored judge section did for `judge` or `sft-judge`, over the shards that are done.

    None for a single judge, and where there is nothing (yet) by these judges.
    """
    members = members_of(judge)
    done = [report.shard for report in shard_reports(root, stage)]
    counts = [whole_json(labelled_file(root, stage, shard)) for shard in done]
    if members is None or not done:
        return None
    kind, names = members
    if any(count is None or sorted(count["judges"]) != sorted(names) for count in counts):
        return None
    uses = []
    for member, name in member_stages(names, stage).items():
        total = summed([report for report in shard_reports(root, member) if report.shard in done])
        lost = sum(count for reason, count in total["drops"].items() if reason in ROW_CAUSES)
        uses.append(
            JudgeUse(
                judge=name,
                asked=total["rows_in"] - lost,
                labelled=sum(count["judges"][name] for count in counts),
                calls=total["calls"],
                prompt_tokens=total["prompt_tokens"],
                completion_tokens=total["completion_tokens"],
                cost=total["cost"],
            )
        )
    return judges_of(kind, uses, sum(count["labelled"] for count in counts))


def _rounds(config: Mapping[str, Any]) -> int:
    """How many rounds of DPO a stored config has; configs of before there were any have one."""
    found: int = (config["dpo"] or {}).get("rounds", 1)
    return found


def read_json(path: Path) -> Any:
    """A JSON file of the run, or None where it is not there (yet). Raises StoreError where it is damaged."""
    if not path.is_file():
        return None
    with guard(path):
        try:
            return orjson.loads(read_given(path))
        except ValueError as error:
            raise StoreError(
                f"{path}: damaged ({error}); running the config again makes it again, and what is whole stays"
            ) from error


def whole_json(path: Path) -> Any:
    """`read_json` for what is made again where it is missing: None also where it is damaged."""
    try:
        return read_json(path)
    except StoreError:
        return None


def run_status(root: Path) -> dict[str, Any]:
    """Everything `cai status --json` prints. Raises ConfigError where `root` is not a run."""
    if not (root / "config.json").is_file():
        raise ConfigError(f"{root}: not a run (no config.json); runs lie in outputs/<name>")
    config = read_json(root / "config.json")
    members = members_of(config["judge"])
    rounds = _rounds(config)
    stepwise = config.get("stepwise")  # configs of before there was any lack it
    first, *rest = stage_names(members[1] if members else (), rounds, bool(stepwise))
    judges_named = members[1] if members else [config["judge"]["model"]]
    names = [first, *map(qualify_stage, judges_named), *rest, "held-out"]
    names += [
        f"{what}-{model}"
        for what in ("evaluate", "grade")
        for model in ("base", *models_of(POLICIES, rounds))
    ]
    names += sorted(path.name for path in root.glob("compare-*"))
    stages = {name: summed(reports) for name in names if (reports := shard_reports(root, name))}
    judges = {
        stage: used.model_dump(mode="json")
        for stage in judged_stages(rounds)
        if (used := judges_used(root, config["judge"], stage)) is not None
    }
    training = {
        model: report
        for model in models_of(KINDS, rounds)
        if (report := read_json(root / "models" / model / "cai_train.json"))
    }
    summary = read_json(root / "summary.json") or {}
    state = "running" if running(root) else summary.get("state", "unfinished")
    return {
        "run": root.name,
        "state": state,
        "live": live.model_dump(mode="json") if (live := read_live(root)) else None,
        "seconds": summary.get("seconds"),
        "versions": summary.get("versions", {}),
        "config": config,
        "constitution": read_json(root / "constitution.json"),
        "stages": stages,
        "total": in_all(stages),
        "spent": spent._asdict() | {"failed": dict(spent.failed)} if (spent := read_spent(root)) else None,
        "accounting": read_json(root / "accounting.json"),
        "rounds": rounds_done(config, stages),
        "judges": judges,
        "engines": read_engines(root),
        "stepwise": states_of(root, stepwise),
        "dataset": summary.get("dataset", {}),
        "training": training,
        "qualification": read_json(root / "qualification.json"),
        "filter": read_json(root / "filter.json"),
        "coverage": read_json(root / "coverage.json"),
        "edit": read_json(root / "edit.json"),
        "target": read_json(root / "target.json"),
        "evaluation": read_json(root / "evaluation.json") or {},
        "report": str(root / "report.html") if (root / "report.html").is_file() else None,
    }
