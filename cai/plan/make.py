"""The plan of a run, stage by stage as the pipeline goes through them."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections import Counter
from pathlib import Path

from cai.config import RunConfig
from cai.evaluate.compare import compare_stage
from cai.judges.qualification import is_gated
from cai.judges.stages import judge_stages, judged_sources, qualify_stage
from cai.pipeline import rows_file
from cai.plan.budget import over_budget
from cai.plan.rows import Plan, State
from cai.plan.target import end_dataset, plan_draw
from cai.plan.walk import Expected, Walk
from cai.preflight import check_inputs
from cai.publish import combine_judges, label, write_held_out, write_prompts
from cai.report.status import shard_reports
from cai.rounds import learns_from, plays_itself, rounds_of, stages_of
from cai.serving import with_policy
from cai.stepwise import PART, STEPS, step_stages
from cai.store import file_sha256


def make_plan(config: RunConfig) -> Plan:
    """What a run of `config` would ask. Raises what `check_inputs` raises; asks no model, starts no server."""
    check_inputs(config)
    beside = config.root if config.root.is_dir() else None
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=beside) as folder:
        scratch, assumed = config.model_copy(update={"outputs": folder}), None
        if config.pairs.target is None:
            write_prompts(scratch)
        else:
            config, assumed = plan_draw(config, scratch)
        return asyncio.run(_plan(Walk(config, Path(folder)), assumed))


async def _plan(walk: Walk, assumed: str | None) -> Plan:
    config = walk.config
    prompts = sum(report.rows_out for report in shard_reports(walk.scratch.root, "prompts"))
    if is_gated(config):
        for judge in config.judge.judges:
            await walk.stage(qualify_stage(judge))
    await walk.stage("generate")
    unanswered = sum(drop.id.endswith("/r0") for drop in walk.unasked("generate"))
    await walk.stage("revise", Expected(unanswered, float(unanswered)))
    if config.evaluate:
        write_held_out(walk.scratch, config.evaluate.sources)
        await walk.stage("evaluate-base")
    await _judge(walk, "judge", "generate")
    await _steps(walk, "generate")
    if config.recipe == "paper":
        dataset, kept = await _rounds(walk, _dataset(walk, "judge", ["sft"]), prompts)
    else:
        dataset = _dataset(walk, "judge", ["sft", "preference"])
        kept = {"sft", "preference"} if dataset == "unchanged" else set()
    if config.evaluate:
        await _evaluate(walk, kept)
        if config.evaluate.grader == "judge":
            await _grade(walk)
        await _compare(walk)
    plans = tuple(plan for found in walk.done.values() for plan in found)
    found = Plan(run=str(config.root), stages=plans, dataset=dataset, assumed=assumed)
    return found.model_copy(update={"over_budget": tuple(over_budget(config, found))})


async def _judge(walk: Walk, stage: str, origin: str) -> None:
    """The judges of `judge`, `sft-judge` …; a cascade's next one may be asked what is open at the one before."""
    more, skip = _comparisons(walk, stage, origin), set[str]()
    for name in judge_stages(walk.config, stage):
        await walk.stage(name, more, skip)
        if walk.config.judge.cascade:
            asked = walk.done[name][0].asked
            more, skip = Expected(more.most + len(asked), more.likely + len(asked)), skip | set(asked)


async def _steps(walk: Walk, origin: str) -> None:
    """The steps of replies, those included that are yet to be made."""
    for name in step_stages(walk.config, origin):
        missing = sum(1 for _ in walk.unasked(origin))
        await walk.stage(name, Expected(missing, float(missing)))


def _comparisons(walk: Walk, stage: str, origin: str) -> Expected:
    """Comparisons that hang on replies or revisions yet to be made."""
    sources, n = judged_sources(walk.config, stage), walk.config.policy.n
    most, likely = 0, 0.0
    if "samples" in sources:
        missing = Counter(drop.id.rpartition("/")[0] for drop in walk.unasked(origin))
        most += sum(math.comb(n, 2) - math.comb(n - lost, 2) for lost in missing.values())
        likely += most
    if "revision" in sources:
        open_ = len(walk.done["revise"][0].asked) + walk.done["revise"][0].unknown - len(walk.tentative)
        most += open_ + sum(not changed for changed in walk.tentative.values())
        likely += open_ * walk.rates.changed
    return Expected(most, likely)


def _dataset(walk: Walk, joint: str, parts: list[str]) -> State:
    """Whether these parts of the dataset would change; `open` where that hangs on replies yet to be made."""
    if walk.asks(*(name for name in walk.done if not name.startswith("evaluate-"))):
        return "open"
    if "revision" not in judged_sources(walk.config, "judge"):
        parts = [part for part in parts if part != "sft"]
    shards = range(walk.config.shards)
    if not walk.config.judge.model and set(judge_stages(walk.config, joint)).intersection(walk.done):
        for shard in shards:
            combine_judges(walk.scratch, joint, shard)
    if walk.config.pairs.target is not None and not end_dataset(walk.scratch):
        return "open"
    if STEPS in walk.done:
        parts = [*parts, PART]
    for stage in (stage for part in parts for stage in stages_of(walk.config, part)):
        for shard in shards:
            label(walk.scratch, stage, shard)
            old, new = (file_sha256(rows_file(root, stage, shard)) for root in (walk.root, walk.scratch.root))
            if old != new:
                return "changed"
    return "unchanged"


def _trained(walk: Walk, model: str) -> RunConfig | None:
    """The scratch config with the run's trained checkpoint as its policy; None where there is none."""
    weights = walk.root / "models" / model
    return with_policy(walk.scratch, model, weights) if (weights / "cai_train.json").is_file() else None


async def _rounds(walk: Walk, dataset: State, prompts: int) -> tuple[State, set[str]]:
    """The paper recipe's second half: samples of trained policies, judged, round by round.

    All is open from the round on whose policy may be another one, or is not there yet. In self-play no more prompts
    are asked than have a demonstration, which is known once those are. Also returns the parts of the dataset that
    stay as they are.
    """
    n, alone = walk.config.policy.n, plays_itself(walk.config)
    kept = {"sft"} if dataset == "unchanged" else set[str]()
    for one in rounds_of(walk.config):
        judges = [] if alone else [*judge_stages(walk.config, one.judge)]
        policy = _trained(walk, one.sampled) if dataset == "unchanged" else None
        if policy is not None:
            await walk.stage(one.generate, policy=policy)
            if judges:
                await _judge(walk, one.judge, one.generate)
            await _steps(walk, one.generate)
            dataset = _dataset(walk, one.judge, [one.part])
            kept |= {one.part} if dataset == "unchanged" else set()
            continue
        dataset = "open"
        walk.add_unknown(one.generate, prompts * n, like="generate")
        for name in judges:
            walk.add_unknown(name, prompts * math.comb(n, 2), like=name.removeprefix(f"{one.sampled}-"))
        for name in step_stages(walk.config, one.generate):
            walk.add_unknown(name, prompts * n, like="judge")
    return dataset, kept


async def _evaluate(walk: Walk, kept: set[str]) -> None:
    """Replies of trained models to the held-out prompts; all may be asked of a model whose part is not `kept`."""
    for model in walk.config.policies:
        policy = _trained(walk, model) if learns_from(walk.config, model) in kept else None
        if policy is not None:
            await walk.stage(f"evaluate-{model}", policy=policy)
        else:
            walk.add_unknown(f"evaluate-{model}", walk.done["evaluate-base"][0].rows, like="evaluate-base")


async def _grade(walk: Walk) -> None:
    """The judge's grades of held-out replies, those included that are yet to be made."""
    for name in [name for name in walk.done if name.startswith("evaluate-")]:
        replies, grade = walk.done[name][0], name.replace("evaluate-", "grade-")
        if rows_file(walk.scratch.root, name, 0).exists():
            await walk.stage(grade, Expected(len(replies.asked), float(len(replies.asked))))
        else:
            walk.add_unknown(grade, replies.unknown, like="grade-base")


async def _compare(walk: Walk) -> None:
    """The comparisons of models; where one of the two has yet to reply, as many as there may be."""
    like = list(judge_stages(walk.config, "judge"))[-1]
    for models in walk.config.compared:
        stage, origins = compare_stage(models), [f"evaluate-{model}" for model in models]
        if all(rows_file(walk.scratch.root, origin, 0).exists() for origin in origins):
            missing = {drop.id for origin in origins for drop in walk.unasked(origin)}
            await walk.stage(stage, Expected(len(missing), float(len(missing))))
        else:
            walk.add_unknown(stage, walk.done["evaluate-base"][0].rows, like=like)
