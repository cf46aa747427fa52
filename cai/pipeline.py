"""The map of a run: for each stage and shard, what it reads, what it does and what it depends on.

A stage is done where its manifest carries the digest of its present inputs, so editing a template, a
principle, a sampling setting or a prompt re-runs exactly the stages that it reaches; the journal then
decides which single calls are really asked again. Nothing here starts a server, a process or a flow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from cai.accounts.budget import spending
from cai.config import PolicyConfig, RunConfig
from cai.constitution import Constitution, load_constitution
from cai.evaluate.compare import both_replied, compare_step, compared_models
from cai.evaluate.grade import grade_step
from cai.judges.calibration import judge_identity
from cai.judges.qualification import labelled_pairs
from cai.judges.stages import (
    asked,
    asked_digests,
    joint_stage,
    judge_rule,
    judge_settings,
    judge_stages,
    judged_sources,
    qualified_judge,
    rule_key,
)
from cai.models.base import ChatModel
from cai.preferences import prompts_asked
from cai.prompts import load_templates
from cai.rows import Prompt, Reply, Row
from cai.shard import ShardReport, finished, shard_paths
from cai.shard.run import Progress, run_shard
from cai.stages.generate import generate_step
from cai.stages.judge import judge_step
from cai.stages.measure import measure_step
from cai.stages.revise import revise_step
from cai.stages.steps import steps_step
from cai.stepwise import STEPS, origin_of
from cai.store import file_sha256, read_rows

OnProgress = Callable[[Progress], None]
Model = TypeVar("Model", bound=Row)


class Job(NamedTuple):
    """One stage over one shard, ready to run. `rows` is lazy; `inputs_digest` names all that decides the output."""

    stage: str
    shard: int
    rows: Iterable[Any]
    step: Any
    inputs_digest: str


def role_of(config: RunConfig, stage: str) -> str:
    """The name of the model that a stage asks."""
    if stage.startswith(("grade-", "compare-")):
        return config.evaluation_judge
    if stage == STEPS:
        return config.step_judge
    if (judge := qualified_judge(stage)) is not None:
        return judge
    if (joint := joint_stage(stage)) is not None:
        return judge_stages(config, joint)[stage]
    return config.critic.model if stage == "revise" else config.policy.model


def shards_of(config: RunConfig, stage: str) -> int:
    """How many shards a stage has; held-out prompts and labelled pairs are few and always one shard."""
    whole = ("evaluate-", "grade-", "compare-", "held-out", "qualify-")
    return 1 if stage.startswith(whole) else config.shards


def rows_file(root: Path, stage: str, shard: int) -> Path:
    """Where a stage publishes the rows of a shard."""
    return shard_paths(root, stage, shard).rows


def read_stage(config: RunConfig, stage: str, row: type[Model]) -> Iterator[Model]:
    """All rows of a finished stage, shard by shard."""
    for shard in range(shards_of(config, stage)):
        yield from read_rows(rows_file(config.root, stage, shard), row)


def digest(*parts: Any) -> str:
    """32 hex digits over JSON-able parts."""
    body = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(body, digest_size=16).hexdigest()


async def run_job(
    config: RunConfig, job: Job, model: ChatModel, on_progress: OnProgress | None = None
) -> ShardReport:
    """Run one stage over one shard; returns at once where it is done."""
    role = role_of(config, job.stage)
    limit = config.models[role].max_concurrency
    if config.models[role].mode == "batch":  # all shards run side by side, and share it
        limit = -(-limit // shards_of(config, job.stage))
    return await run_shard(
        stage=job.stage,
        shard=job.shard,
        root=config.root,
        rows=job.rows,
        step=job.step,
        model=model,
        inputs_digest=job.inputs_digest,
        limit=limit,
        on_progress=on_progress,
        spending=partial(spending, config, role),
    )


def is_done(config: RunConfig, job: Job) -> bool:
    """True where running the job would change nothing."""
    return finished(shard_paths(config.root, job.stage, job.shard), job.inputs_digest) is not None


def job_of(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    """The job of a stage over a shard, for a model of this identity. Its inputs must be published."""
    build = _revise if stage == "revise" else _generate
    if joint_stage(stage) is not None:
        build = _judge
    elif stage.startswith("evaluate-"):
        build = _evaluate
    elif stage.startswith("grade-"):
        build = _grade
    elif stage.startswith("compare-"):
        build = _compare
    elif qualified_judge(stage) is not None:
        build = _qualify
    elif stage == STEPS:
        build = _steps
    return build(config, stage, shard, identity)


def inputs(config: RunConfig, shard: int, *stages: str) -> list[str | None]:
    """SHA-256 of the rows that stages have published for a shard; None for one that is not there."""
    return [file_sha256(rows_file(config.root, stage, shard)) for stage in stages]


def _wording(config: RunConfig) -> tuple[Constitution, dict[str, str], list[Any]]:
    """Constitution and templates, with everything of them that can change a draw or a rendered prompt."""
    constitution, templates = load_constitution(config.constitution), load_templates(config.templates)
    principles = sorted(
        [
            p.id,
            p.weight,
            p.priority,
            sorted(p.applies_to),
            sorted(p.use),
            p.digest("revise"),
            p.digest("judge"),
        ]
        for p in constitution.principles
    )
    return constitution, templates, [principles, templates]


def _generate(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    policy = config.policy
    if config.recipe == "paper" and stage == "generate":  # only revisions come of it; SFT samples n later
        policy = policy.model_copy(update={"n": 1})
    prompts, origins = prompts_asked(config, stage, shard)
    return Job(
        stage,
        shard,
        prompts,
        generate_step(policy, seed=config.seed, stage=stage),
        digest(inputs(config, shard, *origins), policy.model_dump(exclude={"model"}), config.seed, identity),
    )


def _revise(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    constitution, templates, wording = _wording(config)
    replies = read_rows(rows_file(config.root, "generate", shard), Reply)
    critic = config.critic.model_dump(exclude={"model"})
    return Job(
        stage,
        shard,
        (reply for reply in replies if reply.sample == 0),
        revise_step(config.critic, constitution, templates, seed=config.seed),
        digest(inputs(config, shard, "generate"), critic, config.seed, wording, identity),
    )


def _judge(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    constitution, templates, wording = _wording(config)
    name = role_of(config, stage)
    rule = judge_rule(config, name)
    return Job(
        stage,
        shard,
        asked(config, stage, shard),
        judge_step(config.judge, name, rule, constitution, templates, seed=config.seed, stage=stage),
        digest(
            asked_digests(config, stage, shard),
            judge_settings(config),
            name,  # stands in the verdicts
            rule_key(rule),
            config.seed,
            judged_sources(config, stage),
            wording,
            identity,
        ),
    )


def _steps(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    assert config.stepwise is not None
    constitution, templates, wording = _wording(config)
    origin, name = origin_of(config), role_of(config, stage)
    step = steps_step(
        config.judge, name, config.stepwise, constitution, templates, seed=config.seed, stage=stage
    )
    settings = [config.stepwise.model_dump(), judge_settings(config), name, config.seed]
    return Job(
        stage,
        shard,
        read_rows(rows_file(config.root, origin, shard), Reply),
        step,
        digest(inputs(config, shard, origin), settings, wording, identity),
    )


def _qualify(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    constitution, templates, wording = _wording(config)
    pairs = labelled_pairs(config, constitution)
    judge = judge_identity(identity, config.judge, templates)
    step = measure_step(
        config.judge, role_of(config, stage), judge, constitution, templates, seed=config.seed, stage=stage
    )
    rows = [pair.model_dump(mode="json") for pair in pairs]
    depends = digest(rows, judge_settings(config), config.seed, wording, judge)
    return Job(stage, shard, pairs, step, depends)


def _evaluate(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    assert config.evaluate is not None
    policy = PolicyConfig(
        model="policy", sampling=config.evaluate.sampling, n=1, system_prompt=config.policy.system_prompt
    )
    return Job(
        stage,
        shard,
        read_rows(rows_file(config.root, "held-out", shard), Prompt),
        generate_step(policy, seed=config.seed, stage="evaluate"),  # the same seeds for every model
        digest(inputs(config, shard, "held-out"), policy.model_dump(), config.seed, identity),
    )


def _grade(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    origin = stage.replace("grade-", "evaluate-")
    templates = load_templates(config.templates)
    sampling = config.judge.sampling.model_dump()
    return Job(
        stage,
        shard,
        read_rows(rows_file(config.root, origin, shard), Reply),
        grade_step(config.judge, templates, seed=config.seed),
        digest(inputs(config, shard, origin), sampling, config.seed, templates, identity),
    )


def _compare(config: RunConfig, stage: str, shard: int, identity: str) -> Job:
    models = compared_models(stage)
    assert models is not None
    origins = [f"evaluate-{model}" for model in models]
    constitution, templates, wording = _wording(config)
    name = role_of(config, stage)
    rule = judge_rule(config, name)
    judged = judge_step(config.judge, name, rule, constitution, templates, seed=config.seed, stage=stage)
    first, second = (read_rows(rows_file(config.root, origin, shard), Reply) for origin in origins)
    judging = [judge_settings(config), name, rule_key(rule), config.seed]
    return Job(
        stage,
        shard,
        both_replied(models, first, second),
        compare_step(judged),
        digest(inputs(config, shard, *origins), judging, wording, identity),
    )
