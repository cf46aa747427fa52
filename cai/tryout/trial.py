"""One try: prompts through generate, revise and judge, under a new and (where there is one) a previous version.

The stages are those of a run, asked through one journal, so what both versions share is asked once, and what an
earlier try has asked is not asked again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

from cai.config import RunConfig
from cai.constitution.principle import content_digest
from cai.judges.stages import judge_stages
from cai.pipeline import job_of, role_of, rows_file, run_job
from cai.preflight import check_identity
from cai.publish import combine_judges, publish_rows
from cai.rows import Drop, Judgment, Prompt, Reply, Revision, RevisionRound, Row
from cai.serving import Models
from cai.shard import ShardReport, shard_paths
from cai.store import read_rows
from cai.tryout.plan import Plan
from cai.tryout.prompts import principles_met
from cai.tryout.scratch import freeze
from cai.tryout.spent import Spent, spent

Published = TypeVar("Published", bound=Row)


class Judged(Row):
    """The judgment of the reply `against` its `revision`, or another `reply`, whose text is `other`.

    `p`: probability that this other one is better, None where it is unscored. `state`: the judgment's, or why
    there is none.
    """

    against: str
    other: str
    principles: tuple[str, ...]
    p: float | None
    state: str


class Chain(Row):
    """What became of a reply under one version.

    `state`: `revised`, `unchanged` (revised to the same text), `no violation found`, `no principle`, or the
    reason for which the row was dropped, with its `detail`. `final`: the reply after the last round.
    """

    state: str
    detail: str
    rounds: tuple[RevisionRound, ...]
    final: str | None
    judged: tuple[Judged, ...]


class Tried(Row):
    """A prompt with its reply, and what became of it under each version; `reply` None: dropped as `lost` says."""

    prompt: Prompt
    reply: str | None
    lost: str
    new: Chain | None
    previous: Chain | None


class Tryout(Row):
    """All that a try shows. `previous`: which version it is beside, None for none. `changed`: ids, see `reached`.

    `unmet`: changed principles that no prompt meets in either version. `calls`: of everything; `by_version`: of
    critiques, revisions and verdicts under each version (`new`, `previous`).
    """

    file: str
    name: str
    version: str
    previous: str | None
    changed: tuple[str, ...]
    unmet: tuple[str, ...]
    prompts: tuple[Tried, ...]
    calls: Spent
    by_version: dict[str, Spent]
    seconds: float


async def run_tryout(plan: Plan, models: Models) -> Tryout:
    """Ask what is to be asked, and gather what came of it. Raises what a run raises."""
    started = time.monotonic()
    config, prompts = plan.config, [one.prompt for one in plan.drawn]
    await check_identity(config)
    reports = [await _replies(plan, models)]
    chains: dict[str, dict[str, Chain]] = {}
    by_version: dict[str, Spent] = {}
    for name, version in (("previous", plan.old), ("new", plan.new)):
        if version is not None:
            path = config.root / f"{name}-tried.yaml"
            freeze(version, path)
            tried = config.model_copy(update={"constitution": str(path)})
            asked = await _run_version(tried, models)
            reports += asked
            by_version[name] = spent(asked)
            chains[name] = _chains(tried)
    replies = {row.prompt.id: row for row in _rows(config, "generate", Reply) if row.sample == 0}
    lost = {row.id: row for row in _drops(config, "generate")}
    versions = [version for version in (plan.old, plan.new) if version is not None]
    samples = "samples" in config.pairs.sources
    met = {name for prompt in prompts for name in principles_met(config, prompt, versions, samples)}
    return Tryout(
        file=config.constitution,
        name=plan.new.name,
        version=plan.new.version,
        previous=plan.origin,
        changed=tuple(plan.changed),
        unmet=tuple(name for name in plan.changed if name not in met),
        prompts=tuple(_tried(prompt, replies, lost, chains) for prompt in prompts),
        calls=spent(reports),
        by_version=by_version,
        seconds=round(time.monotonic() - started, 3),
    )


async def _replies(plan: Plan, models: Models) -> ShardReport:
    """Publish the replies: those of a run, or those of the config's policy."""
    config = plan.config
    if any(one.replies for one in plan.drawn):
        rows = [reply for one in plan.drawn for reply in one.replies]
        depends = content_digest([reply.model_dump(mode="json") for reply in rows])
        return publish_rows(config.root, "generate", 0, depends, rows)
    prompts = [one.prompt for one in plan.drawn]
    depends = content_digest([row.model_dump(mode="json") for row in prompts])
    publish_rows(config.root, "prompts", 0, depends, prompts)
    return await _run_stage(config, "generate", models)


async def _run_version(config: RunConfig, models: Models) -> list[ShardReport]:
    """Critique, revision and judgment under the config's constitution."""
    reports = [await _run_stage(config, "revise", models)]
    for stage in judge_stages(config, "judge"):
        reports.append(await _run_stage(config, stage, models))
    if not config.judge.model:
        combine_judges(config, "judge", 0)
    return reports


async def _run_stage(config: RunConfig, stage: str, models: Models) -> ShardReport:
    model = await models.model(role_of(config, stage))
    return await run_job(config, job_of(config, stage, 0, model.identity), model)


def _chains(config: RunConfig) -> dict[str, Chain]:
    """What became of each reply under the version that has just been run, by the reply's id."""
    judgments: dict[str, list[Judged]] = {}
    for row in _rows(config, "judge", Judgment):
        judgments.setdefault(row.a.id, []).append(_judged(row))
    for drop in _drops(config, "judge"):
        reply, _, other = drop.id.partition("~")
        against = "revision" if other == f"{reply}/v" else "reply"
        judgments.setdefault(reply, []).append(
            Judged(against=against, other="", principles=(), p=None, state=drop.reason)
        )
    chains = {
        row.reply.id: _chain(row, judgments.get(row.reply.id, ()))
        for row in _rows(config, "revise", Revision)
    }
    for drop in _drops(config, "revise"):
        chains[drop.id] = Chain(
            state=drop.reason,
            detail=drop.detail,
            rounds=(),
            final=None,
            judged=tuple(judgments.get(drop.id, ())),
        )
    return chains


def _chain(row: Revision, judged: Sequence[Judged]) -> Chain:
    state = "no principle" if not row.rounds else "no violation found"
    if any(done.violated for done in row.rounds):
        state = "revised" if row.changed else "unchanged"
    return Chain(state=state, detail="", rounds=row.rounds, final=row.final, judged=tuple(judged))


def _judged(row: Judgment) -> Judged:
    return Judged(
        against=row.b.kind,
        other=row.b.text,
        principles=tuple(dict.fromkeys(verdict.principle for verdict in row.verdicts)),
        p=None if row.p is None else 1 - row.p,
        state=row.state,
    )


def _tried(
    prompt: Prompt,
    replies: dict[str, Reply],
    lost: dict[str, Drop],
    chains: dict[str, dict[str, Chain]],
) -> Tried:
    reply, name = replies.get(prompt.id), f"{prompt.id}/r0"
    return Tried(
        prompt=prompt,
        reply=reply.text if reply else None,
        lost="" if reply else lost[name].reason,
        new=chains["new"].get(name),
        previous=chains.get("previous", {}).get(name),
    )


def _rows(config: RunConfig, stage: str, row: type[Published]) -> list[Published]:
    return list(read_rows(rows_file(config.root, stage, 0), row))


def _drops(config: RunConfig, stage: str) -> list[Drop]:
    return list(read_rows(shard_paths(config.root, stage, 0).drops, Drop))
