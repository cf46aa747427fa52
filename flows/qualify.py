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
from cai.judges import qualify_stage
from cai.preflight import preflight_judge
from cai.qualification import calibration_of, dropped, gate, summary_of, to_measure
from cai.runfolder import hold_run
from cai.serving import Endpoints
from cai.shard import ShardReport
from cai.store import write_json
from flows.artifacts import key_of
from flows.common import TASK, ShardTask, run_shard_stage, run_stages


@task(name="qualify", task_run_name="{stage}", **TASK)
async def measure_task(config: RunConfig, stage: str, shard: int, endpoints: Endpoints) -> ShardReport:
    """One judge's verdicts on the labelled pairs; stops a run whose judges must qualify and do not."""
    report = await run_shard_stage(config, stage, shard, endpoints)
    gate(config, stage)
    return report


def measure_tasks(config: RunConfig) -> dict[str, ShardTask]:
    """The stages in which the judges are measured, in order."""
    return {qualify_stage(judge): measure_task for judge in config.judge.judges}


async def measure_judges(config: RunConfig, method: Method | None = None) -> Summary:
    """Ask every judge about the labelled pairs; returns the figures."""
    await run_stages(config, measure_tasks(config))
    return await conclude(config, method)


async def conclude(config: RunConfig, method: Method | None = None) -> Summary:
    """Write `qualification.json` from what the judges said, and publish it as an artifact."""
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
        write_calibration(Path(out), calibration_of(config, method, found))
    return found.model_dump(mode="json") | {"dropped": dropped(config)}
