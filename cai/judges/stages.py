"""Who judges in which stage, by which rule, and what each judge is asked.

One judge labels in the stage `judge` itself. Several have a stage each, `judge-<model>`, so that each needs only
its own server; the stage `judge` then asks no model and publishes what they add up to. The paper recipe has the
same again as `sft-judge`, for the samples of its SFT model, and as `dpo-1-judge` … in later rounds of DPO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cai.config import RunConfig
from cai.evaluate.compare import compared_models
from cai.judge.label import JudgeRule
from cai.judges.calibration import read_calibration, rules
from cai.rows import Comparison, Drop, Judgment, Reply, Revision
from cai.shard import shard_paths
from cai.stages.combine import Answer, answers, combine, undecided
from cai.stages.judge import PairSource, comparisons, revised
from cai.store import file_sha256, read_rows

NO_EFFECT_ON_CALLS = {
    "model", "jury", "cascade", "threshold", "target_accuracy", "risk", "calibration", "labelled",
    "require_qualification", "clamp",
}  # fmt: skip
_JOINT = re.compile(r"((?:sft-|dpo-[1-9][0-9]*-)?judge)(?:-.*)?")


def member_stages(judges: Sequence[str], stage: str) -> dict[str, str]:
    """The stage of each of several judges below `judge`, `sft-judge` …, with the judge's name, in order."""
    return {f"{stage}-{name}": name for name in judges}


def judge_stages(config: RunConfig, stage: str) -> dict[str, str]:
    """The stages in which judges are asked for `judge`, `sft-judge` …, with the judge's name, in order."""
    if config.judge.model:
        return {stage: config.judge.model}
    return member_stages(config.judge.judges, stage)


def qualify_stage(judge: str) -> str:
    """The stage in which a judge is measured on labelled pairs."""
    return f"qualify-{judge}"


def qualified_judge(stage: str) -> str | None:
    """The judge that a stage measures; None for any other stage."""
    return stage.removeprefix("qualify-") if stage.startswith("qualify-") else None


def joint_stage(stage: str) -> str | None:
    """`judge`, `sft-judge` … for that stage or one of its judges'; None for any other stage."""
    found = _JOINT.fullmatch(stage)
    return found and found[1]


def weighs_pairs(stage: str) -> bool:
    """True for a stage in which a judge is asked which of two texts is better, to label or for another reason."""
    of_models = compared_models(stage) is not None
    return of_models or joint_stage(stage) is not None or qualified_judge(stage) is not None


def judged_sources(config: RunConfig, stage: str) -> tuple[PairSource, ...]:
    """Which pairs a judge stage compares; revisions are always verified where SFT will imitate them."""
    if joint_stage(stage) != "judge":
        return ("samples",)
    if config.recipe == "paper":
        return ("revision",)
    return tuple(dict.fromkeys((*config.pairs.sources, *(("revision",) if config.sft else ()))))


def judge_rule(config: RunConfig, name: str) -> JudgeRule:
    """How the verdicts of the judge `name` become its label. Raises ConfigError as `cai.judges.calibration.rules` does.

    A calibration is of the run's own judges; a model that only evaluates has none.
    """
    judge = config.judge
    if judge.calibration is None or name not in judge.judges:
        return JudgeRule(judge.threshold)
    stored, place = read_calibration(Path(judge.calibration)), judge.judges.index(name)
    if judge.jury:
        return JudgeRule(judge.threshold, stored.members[place].curve)
    return rules(stored, judge)[place]


def pool_rule(config: RunConfig) -> JudgeRule:
    """How the pooled labels of a jury become its label. Raises ConfigError as `cai.judges.calibration.rules` does."""
    judge = config.judge
    if judge.calibration is None:
        return JudgeRule(judge.threshold)
    return rules(read_calibration(Path(judge.calibration)), judge)[0]


def thresholds(config: RunConfig) -> list[float | None]:
    """The thresholds in force, one for each judge of a cascade; None for one that keeps nothing."""
    if config.judge.jury:
        return [pool_rule(config).threshold]
    return [judge_rule(config, name).threshold for name in config.judge.judges]


def rule_key(rule: JudgeRule) -> list[Any]:
    """A rule as JSON-able values, for digests."""
    return [rule.threshold, rule.curve.model_dump(mode="json")]


def judge_settings(config: RunConfig) -> dict[str, Any]:
    """What of the judge section decides its calls; who judges and by which rule has digests of its own."""
    return config.judge.model_dump(mode="json", exclude=NO_EFFECT_ON_CALLS)


def asked(config: RunConfig, stage: str, shard: int) -> Iterator[Comparison]:
    """The comparisons that the judge of a stage is asked: all, or what the judge before it in a cascade left."""
    before = _before(config, stage)
    if before is None:
        yield from _compared(config, stage, shard)
        return
    said = _said(config, before, shard)
    yield from (row for row in _compared(config, stage, shard) if undecided(said(row.id)))


def asked_digests(config: RunConfig, stage: str, shard: int) -> list[str | None]:
    """SHA-256 of every file that `asked` reads; None for one that is not there."""
    origin, before = _origin(stage), _before(config, stage)
    found = [shard_paths(config.root, name, shard).rows for name in (origin, "revise")]
    if before is not None:
        found += shard_paths(config.root, before, shard)[:2]
    return [file_sha256(path) for path in found]


def combined(config: RunConfig, stage: str, shard: int) -> Iterator[tuple[Judgment | Drop, list[Answer]]]:
    """What the judges of a jury or a cascade add up to, comparison by comparison, each with what they said."""
    jury = pool_rule(config) if config.judge.jury else None
    judges = [_said(config, name, shard) for name in judge_stages(config, stage)]
    for row in _compared(config, stage, shard):
        said = [judge(row.id) for judge in judges]
        yield combine(row, said, stage=stage, jury=jury), said


def combined_digests(config: RunConfig, stage: str, shard: int) -> list[Any]:
    """Everything that decides what `combined` gives, JSON-able."""
    files = [
        path for name in judge_stages(config, stage) for path in shard_paths(config.root, name, shard)[:2]
    ]
    compared = [shard_paths(config.root, name, shard).rows for name in (_origin(stage), "revise")]
    rule = rule_key(pool_rule(config)) if config.judge.jury else None
    shas = [file_sha256(path) for path in (*compared, *files)]
    return [config.judge.kind, config.judge.judges, rule, judged_sources(config, stage), shas]


def labelled_file(root: Path, stage: str, shard: int) -> Path:
    """Where a run keeps how many comparisons of a shard several judges labelled, together and each."""
    return root / stage / f"labelled-{shard:05d}.json"


def _origin(stage: str) -> str:
    """The stage whose replies are compared."""
    return (joint_stage(stage) or stage).removesuffix("judge") + "generate"


def _before(config: RunConfig, stage: str) -> str | None:
    """The stage of a cascade's judge that is asked before this one's."""
    stages = list(judge_stages(config, joint_stage(stage) or stage))
    at = stages.index(stage)
    return stages[at - 1] if config.judge.cascade and at else None


def _compared(config: RunConfig, stage: str, shard: int) -> Iterator[Comparison]:
    """Every pair that there is to judge, as the judged replies and revisions are published."""
    sources = judged_sources(config, stage)
    revisions: Iterator[Revision] = iter(())
    if "revision" in sources:
        revisions = read_rows(shard_paths(config.root, "revise", shard).rows, Revision)
    if "samples" not in sources or config.policy.n == 1:
        return revised(revisions)  # which hold their replies: each is read once
    replies = read_rows(shard_paths(config.root, _origin(stage), shard).rows, Reply)
    return comparisons(replies, revisions, sources)


def _said(config: RunConfig, stage: str, shard: int) -> Callable[[str], Answer]:
    """What the judge of a stage made of each comparison, to be asked in their order."""
    paths = shard_paths(config.root, stage, shard)
    return answers(read_rows(paths.rows, Judgment), read_rows(paths.drops, Drop))
