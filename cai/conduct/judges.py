"""The judges of a config answer labelled pairs: figures decide whether they may label, curves are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai.conduct.stages import run_stages
from cai.conduct.work import Work
from cai.config import RunConfig
from cai.judge.curve import Method
from cai.judge.summary import Summary
from cai.judges.calibration import write_calibration
from cai.judges.qualification import calibration_of, dropped, summary_of, to_measure
from cai.judges.stages import qualify_stage
from cai.preflight import preflight_judge
from cai.runfolder.hold import hold_run
from cai.store import write_json


async def qualify(config: RunConfig, work: Work) -> dict[str, Any]:
    """May the judge of this config label? Figures and decision on labelled pairs."""
    config = to_measure(config)
    await preflight_judge(config)
    with hold_run(config):
        await run_stages(config, measure_stages(config), work)
        found = await conclude(config, work)
    return _told(config, found)


async def calibrate(config: RunConfig, out: Path, method: Method, work: Work) -> dict[str, Any]:
    """A calibration of this config's judge, written to `out`, with out-of-fold figures."""
    config = to_measure(config)
    await preflight_judge(config)
    with hold_run(config):
        await run_stages(config, measure_stages(config), work)
        found = await conclude(config, work, method)
        write_calibration(out, calibration_of(config, method, found))
    return _told(config, found)


def measure_stages(config: RunConfig) -> list[str]:
    """The stages in which the judges are measured, in order."""
    return [qualify_stage(judge) for judge in config.judge.judges]


async def conclude(config: RunConfig, work: Work, method: Method | None = None) -> Summary:
    """Write `qualification.json` from what the judges said about the labelled pairs."""
    found = summary_of(config, method)
    write_json(config.root / "qualification.json", _told(config, found))
    await work.show(config, "qualification")
    return found


def _told(config: RunConfig, found: Summary) -> dict[str, Any]:
    return found.model_dump(mode="json") | {"dropped": dropped(config)}
