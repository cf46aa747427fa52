"""Deployments on a Prefect server, which runs them through a work pool: made, or changed where they are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner.storage import LocalStorage
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.types.entrypoint import EntrypointType
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type
from rich.console import Console

from cai.cli.common import print_json
from cai.errors import ConfigError
from cai.report.tables import plain
from flows.wanted import Wanted, flow_of

ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
START = "start one (`prefect server start`) and set PREFECT_API_URL, or use --serve"


async def deploy(wanted: Sequence[Wanted], pool: str) -> dict[str, Any]:
    """Make the deployments in a work pool; a pool that is not there is made, of type process.

    Raises ConfigError for a wrong schedule and where no server answers.
    """
    made = [await deployment_of(one) for one in wanted]
    url = PREFECT_API_URL.value()
    if not url:
        raise ConfigError(f"there is no Prefect server to deploy to; {START}")
    async with get_client() as client:
        if (problem := await client.api_healthcheck()) is not None:
            raise ConfigError(f"PREFECT_API_URL: {url} does not answer ({_first(problem)}); {START}")
        created = await _ensure_pool(client, pool)
    rows = []
    for one, deployment in zip(wanted, made, strict=True):
        identity = await put(deployment, pool)
        url = f"{PREFECT_UI_URL.value()}/deployments/deployment/{identity}"
        rows.append(row_of(one, deployment) | {"url": url})
    return {"deployments": rows, "work_pool": pool, "pool_created": created}


async def put(deployment: RunnerDeployment, pool: str | None) -> UUID:
    """Make or change a deployment, with the schedule that it has now and no earlier one; returns its id.

    Raises ConfigError where the server refuses it.
    """
    try:
        identity = await deployment.aapply(work_pool_name=pool)
    except DeploymentApplyError as error:
        raise ConfigError(f"{deployment.full_name} is refused by the server: {_first(error)}") from error
    wanted = {schedule.slug for schedule in deployment.schedules or []}
    async with get_client() as client:
        for schedule in await client.read_deployment_schedules(identity):
            if schedule.slug not in wanted:  # Prefect keeps what it is not told of
                await client.delete_deployment_schedule(identity, schedule.id)
    return identity


async def deployment_of(wanted: Wanted) -> RunnerDeployment:
    """One deployment: this folder as the working directory, one run at a time. Raises ConfigError for its cron."""
    schedule = schedule_of(wanted)
    deployment: RunnerDeployment = await flow_of(wanted.flow).ato_deployment(
        name=wanted.name,
        schedules=[schedule] if schedule else [],
        paused=False,
        concurrency_limit=ONE,
        parameters=wanted.parameters,
        tags=["cai"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.storage = LocalStorage(str(Path.cwd()))
    return deployment


def schedule_of(wanted: Wanted) -> Schedule | None:
    """The schedule, None for none. Raises ConfigError for a cron that is none."""
    if wanted.interval_s is not None:
        return Interval(wanted.interval_s, slug="interval")
    if wanted.cron is None:
        return None
    try:
        return Cron(wanted.cron, timezone=wanted.timezone, slug="cron")
    except ValueError as error:
        raise ConfigError(
            f"--cron {wanted.cron!r}: not a cron; write minute, hour, day, month and weekday, like '0 2 * * *'"
        ) from error


def row_of(wanted: Wanted, deployment: RunnerDeployment) -> dict[str, Any]:
    """What is said about a deployment."""
    schedule = None
    if wanted.interval_s is not None:
        schedule = f"every {wanted.interval_s} s"
    elif wanted.cron is not None:
        schedule = f"{wanted.cron} {wanted.timezone}"
    return {"name": deployment.full_name, "schedule": schedule}


def show(found: dict[str, Any], as_json: bool) -> None:
    """What was made, and what it takes to run it."""
    if as_json:
        print_json(found)
        return
    console = Console()
    for row in found["deployments"]:
        when = row["schedule"] or "no schedule"
        console.print(f"{plain(row['name'])}  {plain(when)}  {plain(row['url'])}", soft_wrap=True)
    pool = plain(found["work_pool"])
    made = " (made, type process)" if found["pool_created"] else ""
    console.print(f"work pool {pool}{made}; its worker: prefect worker start --pool {pool}", soft_wrap=True)


async def _ensure_pool(client: PrefectClient, name: str) -> bool:
    """Make the pool where it is not there; True where it was made."""
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        template = await get_default_base_job_template_for_infrastructure_type("process")
        await client.create_work_pool(
            WorkPoolCreate(name=name, type="process", base_job_template=template or {})
        )
        return True
    return False


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
