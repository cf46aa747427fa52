"""Qualify and calibrate: the judges of a config answer labelled pairs; figures decide, curves are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_table_artifact

from cai.calibration import write_calibration
from cai.config import RunConfig
from cai.config_file import override_config
from cai.judge.curve import Method
from cai.judge.fit import METHOD
from cai.judge.summary import Summary
from cai.preflight import preflight_judge
from cai.qualification import calibration_of, dropped, require_qualified, stage_of, summary_of, to_measure
from cai.runfolder import hold_run
from cai.shard import ShardReport
from cai.store import write_json
from flows.artifacts import key_of
from flows.common import TASK, run_shard_stage, run_stages
from flows.serving import Endpoints


@task(name="qualify", task_run_name="{stage}", **TASK)
async def measure_task(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """One judge's verdicts on the labelled pairs."""
    return await run_shard_stage(config, stage, shard, endpoints)


async def measure_judges(config: RunConfig, method: Method | None = None) -> Summary:
    """Ask every judge, write `qualification.json`, publish the decision as an artifact; returns the figures."""
    await run_stages(config, {stage_of(judge): measure_task for judge in config.judge.judges})
    found = summary_of(config, method)
    write_json(
        config.root / "qualification.json", found.model_dump(mode="json") | {"dropped": dropped(config)}
    )
    table = [
        {"what": name, "value": value}
        for name, value in found.model_dump(mode="json").items()
        if not isinstance(value, list | dict)
    ]
    table += [{"what": "reason", "value": reason} for reason in found.reasons]
    await acreate_table_artifact(table=table, key=key_of(config, "qualification"))
    return found


async def require_qualification(config: RunConfig) -> None:
    """Stop with JudgeError where `judge.require_qualification` is set and the judge does not pass.

    A calibration has measured its judge already; without one, the judge is measured now.
    """
    if config.judge.require_qualification and config.judge.calibration is None:
        require_qualified(await measure_judges(config))


@flow(name="cai-qualify")
async def qualify(config: RunConfig, overrides: list[str] | None = None) -> dict[str, Any]:
    """May the judge of this config label? Figures and decision on labelled pairs."""
    config = to_measure(override_config(config, overrides or []))
    await preflight_judge(config)
    with hold_run(config):
        found = await measure_judges(config)
    return found.model_dump(mode="json") | {"dropped": dropped(config)}


@flow(name="cai-calibrate")
async def calibrate(
    config: RunConfig, out: str, method: Method = METHOD, overrides: list[str] | None = None
) -> dict[str, Any]:
    """A calibration of this config's judge, written to `out`, with out-of-fold figures."""
    config = to_measure(override_config(config, overrides or []))
    await preflight_judge(config)
    with hold_run(config):
        found = await measure_judges(config, method)
        write_calibration(Path(out), calibration_of(config, method))
    return found.model_dump(mode="json") | {"dropped": dropped(config)}
