"""`cai constitution try` and `test`: what an edit of a constitution does, shown at once; whether its tests hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.common import DEMO, Json, Set, print_json, tell
from cai.errors import CaiError, ConfigError, ConstitutionError

if TYPE_CHECKING:
    from cai.config import RunConfig
    from cai.serving import Models
    from cai.tryout.check import Checks
    from cai.tryout.plan import Wanted

File = Annotated[Path, typer.Argument(metavar="FILE", help="Constitution (YAML).")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Constitutions (YAML).")]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="CONFIG", help=f"Run config with the models to ask; default: {DEMO}."),
]
PrincipleOption = Annotated[
    str | None, typer.Option("--principle", metavar="ID", help="This principle alone.")
]


def try_(
    file: File,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", metavar="TEXT", help="A prompt; can be repeated.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Take prompts, replies, config and previous version of this run."),
    ] = None,
    row: Annotated[
        str | None, typer.Option(metavar="ID", help="This prompt of RUN alone, by its id.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many prompts to draw.")] = 3,
    against: Annotated[
        Path | None,
        typer.Option(metavar="OLD", help="Previous version; default: that of RUN, or the last one tried."),
    ] = None,
    config: ConfigOption = None,
    principle: PrincipleOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again on each save, with the model kept ready.")
    ] = False,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """A few prompts through a constitution as it stands: critiques, revisions and verdicts, beside the last version."""
    import asyncio

    from cai.tryout.plan import Wanted, run_config
    from cai.tryout.scratch import scratch_config

    if row is not None and run is None:
        raise ConfigError("--row: is a prompt of a run; give --run RUN as well")
    if config is None and run is not None:
        from cai.config_file import override_config

        loaded = override_config(run_config(run), overrides or [])
    else:
        loaded = _load(config, overrides)
    scratch = scratch_config(loaded, file)
    wanted = Wanted(file, prompt or (), run, against, principle, n, row)
    if not watch:
        asyncio.run(_try_once(scratch, wanted, as_json))
        return
    try:
        asyncio.run(_try_on_saves(scratch, wanted, as_json))
    except KeyboardInterrupt:
        typer.echo(err=True)


def test(
    files: Files,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labelled pairs (JSONL) to test as well.")
    ] = None,
    config: ConfigOption = None,
    principle: PrincipleOption = None,
    min_pass_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of each principle's tests that must pass.")
    ] = 1.0,
    junit: Annotated[Path | None, typer.Option(metavar="XML", help="Write the results as JUnit XML.")] = None,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Does the judge prefer the better reply of each test in both orders? Exit 1 where a principle falls short."""
    import asyncio

    found = asyncio.run(_check_all(_load(config, overrides), files, pairs, principle, min_pass_rate))
    if not sum(checks.tests for checks in found):
        raise ConfigError(
            f"{', '.join(map(str, files))}: no principle has tests; write some, or give --pairs"
        )
    if junit is not None:
        from cai.junit import junit_xml
        from cai.store import write_text

        write_text(junit, junit_xml(found))
    if as_json:
        rows = [checks.model_dump(mode="json") for checks in found]
        print_json(rows[0] if len(rows) == 1 else {"files": rows})
    else:
        from rich.console import Console

        from cai.report.passes import print_checks

        for checks in found:
            print_checks(checks, Console())
    if not all(checks.held for checks in found if checks.tests):
        raise typer.Exit(1)


def _load(config: str | None, overrides: list[str] | None) -> RunConfig:
    from cai.config_file import load_config

    if config is None and not Path(DEMO).is_file():
        raise ConfigError(f"{DEMO} is not here; give --config, or work in a checkout of the repository")
    return load_config(config or DEMO, overrides or [])


async def _try_once(config: RunConfig, wanted: Wanted, as_json: bool) -> None:
    from cai.serving import on_demand

    async with on_demand(config) as models:
        await _show(config, wanted, models, as_json)


async def _try_on_saves(config: RunConfig, wanted: Wanted, as_json: bool) -> None:
    """Show it now and on each save. What cannot be shown is told, and waited on; a server must start."""
    import asyncio

    from cai.serving import on_demand
    from cai.tryout.watch import contents, saves

    seen = contents(wanted.file)
    async with on_demand(config) as models:
        warm = asyncio.create_task(models.client(config.critic.model))
        try:
            await _show_or_tell(config, wanted, models, as_json)
            await warm
            tell(f"watching {wanted.file}; Ctrl-C ends", err=True)
            async for _ in saves(wanted.file, seen):
                await _show_or_tell(config, wanted, models, as_json)
        finally:
            warm.cancel()


async def _show_or_tell(config: RunConfig, wanted: Wanted, models: Models, as_json: bool) -> None:
    from cai.constitution.lint import lint

    try:
        await _show(config, wanted, models, as_json)
    except ConstitutionError as error:
        errors = [finding for finding in lint(wanted.file) if finding.severity == "error"]
        for line in [*map(str, errors)] or [str(error)]:
            tell(f"error: {line}", err=True)
    except CaiError as error:
        tell(f"error: {error}", err=True)


async def _show(config: RunConfig, wanted: Wanted, models: Models, as_json: bool) -> None:
    from cai.constitution import load_constitution
    from cai.runfolder.hold import hold_run
    from cai.tryout.plan import plan_tryout
    from cai.tryout.trial import run_tryout

    new = load_constitution(wanted.file)
    with hold_run(config):
        found = await run_tryout(plan_tryout(config, wanted, new), models)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.console import Console

    from cai.report.tryout import print_tryout

    print_tryout(found, Console())


async def _check_all(
    config: RunConfig, files: list[Path], pairs: Path | None, principle: str | None, min_pass_rate: float
) -> list[Checks]:
    from cai.constitution import load_constitution
    from cai.runfolder.hold import hold_run
    from cai.serving import on_demand
    from cai.tryout.check import Wanted, run_checks
    from cai.tryout.scratch import scratch_config

    constitutions = [load_constitution(file) for file in files]
    found = []
    async with on_demand(scratch_config(config, files[0])) as models:
        for file, constitution in zip(files, constitutions, strict=True):
            scratch, wanted = scratch_config(config, file), Wanted(file, pairs, principle)
            with hold_run(scratch):
                found.append(await run_checks(scratch, wanted, constitution, min_pass_rate, models))
    return found
