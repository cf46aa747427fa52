"""`cai plan` and `cai constitution diff`: what a run would ask, and what an edit means, before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.common import Config, Json, Set, print_json, tell
from cai.cli.completion import complete_run
from cai.errors import ConfigError
from cai.given import read_given

if TYPE_CHECKING:
    from cai.config import RunConfig
    from cai.constitution import Constitution
    from cai.constitution.diff import Change
    from cai.plan.need import Assumed
    from cai.plan.rows import Plan

Old = Annotated[Path, typer.Argument(metavar="OLD", help="Constitution file, or the folder of a run.")]
New = Annotated[Path, typer.Argument(metavar="NEW", help="Constitution file.")]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Also say what NEW would have this run ask again.",
        autocompletion=complete_run,
    ),
]
Capacity = Annotated[
    bool, typer.Option("--capacity", help="Hours and money for 10,000, 1 M and 100 M prompts.")
]
Prompts = Annotated[
    list[int] | None,
    typer.Option("--prompts", metavar="N", min=1, help="The same for N prompts; may be given several times."),
]
Rate = Annotated[
    list[str] | None,
    typer.Option(
        "--rate", metavar="[MODEL=]PREFILL/DECODE",
        help="Prompt and generated tokens a second of one GPU, e.g. policy=8000/2000.",
    ),
]  # fmt: skip
Gpus = Annotated[
    list[str] | None, typer.Option("--gpus", metavar="[MODEL=]N", help="GPUs that serve a model.")
]
GpuHour = Annotated[float | None, typer.Option("--gpu-hour-usd", min=0, help="Price of one GPU for an hour.")]
Utilisation = Annotated[
    float, typer.Option("--utilisation", min=0.01, max=1, help="Share of a given --rate that is reached.")
]
Violated = Annotated[
    float | None,
    typer.Option(
        "--violated", min=0, max=1, help="Share of critiques that find something; else the run's own."
    ),
]
ReplyShare = Annotated[
    float, typer.Option("--reply-share", min=0.001, max=1, help="Share of max_tokens that replies have.")
]
PromptTokens = Annotated[
    float | None,
    typer.Option("--prompt-tokens", min=1, help="Tokens of a prompt; else the sources are read."),
]
NOTHING_STATED = (None, None, None, 1.0, None, 1.0, None)


def plan(
    config: Config,
    overrides: Set = None,
    capacity: Capacity = False,
    prompts: Prompts = None,
    rate: Rate = None,
    gpus: Gpus = None,
    gpu_hour_usd: GpuHour = None,
    utilisation: Utilisation = 1.0,
    violated: Violated = None,
    reply_share: ReplyShare = 1.0,
    prompt_tokens: PromptTokens = None,
    as_json: Json = False,
) -> None:
    """What a run would ask if it were started now: calls, tokens and cost a stage, and what is there already.

    With --capacity (or --prompts): the hours and the money for 10,000, 1 M and 100 M prompts, and the formula.
    """
    from cai.config_file import load_config

    found = load_config(config, overrides or [])
    if capacity or prompts:
        from cai.plan.assumed import assumed

        stated = assumed(
            found, rate or [], gpus or [], gpu_hour_usd=gpu_hour_usd, utilisation=utilisation,
            violated=violated, reply_share=reply_share, prompt_tokens=prompt_tokens,
        )  # fmt: skip
        _print_capacity(found, prompts, stated, as_json)
        return
    if (rate, gpus, gpu_hour_usd, utilisation, violated, reply_share, prompt_tokens) != NOTHING_STATED:
        raise ConfigError("--rate, --gpus and the like are for hours and money: add --capacity")
    from cai.plan.make import make_plan

    _print_plan(make_plan(found), as_json)


def diff(old: Old, new: New, run: RunFolder = None, as_json: Json = False) -> None:
    """What is different between two versions of a constitution, and what a run would ask again because of it."""
    from cai.constitution.diff import compare

    before, after = _version(old), _version(new)
    changes = compare(before, after)
    found = _plan_with(run, new) if run else None
    if as_json:
        print_json(
            {"changes": [change.model_dump(mode="json") for change in changes]}
            | ({"plan": _plan_json(found)} if found else {})
        )
        return
    _print_changes(changes)
    if found and run:
        if compare(_version(run), before):
            tell(f"{run} was made with another version than {old}; this is what {new} means for it:")
        _print_plan(found, as_json=False)


def _version(path: Path) -> Constitution:
    """The constitution of a file, or the one that a run was made with."""
    from pydantic import ValidationError

    from cai.constitution import Constitution, load_constitution

    if not path.is_dir():
        return load_constitution(path)
    stored = path / "constitution.json"
    try:
        return Constitution.model_validate_json(read_given(stored))
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path}: not a run (no readable constitution.json); give outputs/<name>"
        ) from error


def _plan_with(run: Path, constitution: Path) -> Plan:
    """The plan of a run with another constitution."""
    from cai.config_file import validate_config
    from cai.plan.make import make_plan
    from cai.report.status import run_status

    config = validate_config(run_status(run)["config"], str(run / "config.json"))
    return make_plan(
        config.model_copy(
            update={"outputs": str(run.parent), "name": run.name, "constitution": str(constitution)}
        )
    )


def _plan_json(found: Plan) -> dict[str, Any]:
    return found.model_dump(mode="json") | {"calls": found.calls.model_dump(), "held": found.held}


def _print_plan(found: Plan, as_json: bool) -> None:
    if as_json:
        print_json(_plan_json(found))
        return
    from rich.console import Console

    from cai.plan.table import print_plan

    print_plan(found, Console())


def _print_capacity(config: RunConfig, prompts: list[int] | None, stated: Assumed, as_json: bool) -> None:
    from cai.plan.capacity import SIZES, make_capacity

    found = make_capacity(config, prompts or SIZES, stated)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.console import Console

    from cai.plan.capacity_table import print_capacity

    print_capacity(found, Console())


def _print_changes(changes: list[Change]) -> None:
    from rich.console import Console

    from cai.report.tables import plain

    console = Console()
    if not changes:
        console.print("no difference in meaning")
    for change in changes:
        reach = ", ".join(change.reaches) or "nothing that a model reads"
        name = f"{change.principle}: " if change.principle else ""
        what = "" if change.kind in ("added", "removed") else f" {change.field}"
        console.print(
            f"{change.kind:<13} {plain(name)}{what.strip()} → {reach}", soft_wrap=True, highlight=False
        )
        for sign, text in (("-", change.old), ("+", change.new)):
            if text is not None:
                colour = "red" if sign == "-" else "green"
                console.print(f"  [{colour}]{sign} {plain(text)}[/]", soft_wrap=True, highlight=False)
