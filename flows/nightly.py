"""Nightly: test the constitution, take new prompts from an inbox, run, publish the next version of the dataset.

What earlier nights asked is not asked again: prompts are only added, and ids stay. A judge that fails the
constitution's tests publishes nothing, and the version before stays the latest. Nothing new, no new version.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import acreate_table_artifact
from prefect.states import Completed
from pydantic import Field

from cai.conduct.judges import measure_stages
from cai.conduct.stages import run_stages
from cai.config import RunConfig, SourceConfig
from cai.errors import JudgeError
from cai.export.versions import Changes, publish_version
from cai.judge.passes import PrinciplePasses, passes, together
from cai.judges.qualification import kind_of, labelled_pairs, to_measure
from cai.judges.stages import qualify_stage
from cai.preflight import preflight
from cai.rows import Drop, Recorded
from cai.runfolder.hold import hold_run
from cai.shard import shard_paths
from cai.sources.inbox import SETTLE_S, Taken, check_inbox, take, with_inbox
from cai.store import read_rows
from cai.store.lock import held
from flows.artifacts import key_of
from flows.pipeline import pipeline
from flows.secrets import prepared
from flows.tasks import PREFECT, TASK


def tests_config(config: RunConfig) -> RunConfig:
    """The run in which the judges answer the constitution's own tests: in a folder of its own below the run's."""
    config = to_measure(config)
    judge = config.judge.model_copy(update={"labelled": None})
    return config.model_copy(
        update={"judge": judge, "outputs": str(config.root), "name": f"{config.name}-tests"}
    )


def tested(config: RunConfig) -> list[PrinciplePasses]:
    """How the judges of a run did on the constitution's tests, principle by principle, from what they said."""
    pairs = {pair.id: pair for pair in labelled_pairs(config)}
    paths = [shard_paths(config.root, qualify_stage(judge), 0) for judge in config.judge.judges]
    said = [list(read_rows(path.rows, Recorded)) for path in paths]
    rows = together(said, kind_of(config), config.judge.threshold)
    unsaid = pairs.keys() - {row.id for row in rows}
    lost = {
        drop.id: drop.reason for path in paths for drop in read_rows(path.drops, Drop) if drop.id in unsaid
    }
    return passes(rows, [(pairs[name], reason) for name, reason in sorted(lost.items())])


async def check_constitution(config: RunConfig, min_pass_rate: float) -> None:
    """Ask the constitution's tests in both orders. Raises JudgeError where too few of them pass."""
    config = tests_config(config)
    with hold_run(config):
        await run_stages(config, measure_stages(config), PREFECT)
        found = tested(config)
    table = [{"principle": p.principle, "tests": p.tests, "passed": p.passed, "rate": p.rate} for p in found]
    await acreate_table_artifact(table=table, key=key_of(config, "constitution"))
    count, passed = sum(p.tests for p in found), sum(p.passed for p in found)
    if passed < min_pass_rate * count:
        failing = ", ".join(f"{p.principle} {p.passed} of {p.tests}" for p in found if p.failed)
        raise JudgeError(
            f"{config.constitution}: the judge passes {passed} of {count} tests, min_pass_rate is "
            f"{min_pass_rate:g}; no version is published; failing: {failing}"
        )


@task(name="inbox", **TASK)
async def inbox_task(config: RunConfig, inbox: SourceConfig, settle_s: float) -> Taken:
    """Take the new prompts."""
    return take(inbox, config.root, settle_s)


@task(name="version", **TASK)
async def version_task(config: RunConfig) -> Changes:
    """Publish the next version of the dataset, where it has changed, with what has."""
    with hold_run(config):
        changes = publish_version(config)
    counts = {"prompts": changes.prompts, **changes.dataset}
    table = [{"what": name, **part.model_dump(exclude={"groups"})} for name, part in counts.items()]
    await acreate_table_artifact(table=table, key=key_of(config, "version"), description=changes.line())
    return changes


@flow(name="cai-nightly")
async def nightly(
    config: RunConfig,
    inbox: SourceConfig,
    min_pass_rate: Annotated[float, Field(ge=0, le=1)] | None = 0.9,
    settle_s: Annotated[float, Field(ge=0)] = SETTLE_S,
    overrides: list[str] | None = None,
) -> Any:  # a state, for its message; whoever awaits the flow gets its data
    """A run that grows: new prompt files in, the next version of the dataset out.

    `inbox`: its `path` is a folder; new files in it are taken, their columns and tags read as the other fields say.
    `min_pass_rate`: share of the constitution's tests that the judge must pass; null: it is not tested. `settle_s`:
    a file that was changed less than so many seconds ago is left for the next time.
    """
    config = await prepared(config, overrides)
    check_inbox(inbox)
    await preflight(config)
    config.root.mkdir(parents=True, exist_ok=True)
    with held(config.root / "nightly.lock", f"the nightly run of {config.root}"):
        if min_pass_rate is not None:
            await check_constitution(config, min_pass_rate)
        taken = await inbox_task(config, inbox, settle_s)
        config = with_inbox(config)
        done = await pipeline(config)
        config = config.model_copy(
            update={"shards": done["config"]["shards"]}
        )  # with a target: as many as were drawn
        changes = await version_task(config)
    left = f"; left in the inbox: {', '.join(taken.left)}" if taken.left else ""
    said = (
        f"version {changes.version}"
        if changes.any
        else f"nothing new, the latest version is {changes.previous}"
    )
    found = {
        "version": changes.version if changes.any else changes.previous,
        "published": changes.any,
        "changes": changes.model_dump(mode="json"),
        "inbox": taken.model_dump(mode="json") | {"prompts": taken.prompts},
    }
    return Completed(message=f"{said}: {changes.line()}{left}", data=found)
