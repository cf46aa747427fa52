"""`cai train`: the trainings of a config, for real or as a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.common import Config, NoPrefect, Set, start, tell

if TYPE_CHECKING:
    from cai.conduct.dry_run import Outcome


def train(
    config: Config,
    overrides: Set = None,
    no_prefect: NoPrefect = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Two steps of each on a tiny random model of the same architecture, here and now; no dataset needed.",
        ),
    ] = False,
) -> None:
    """Train what the config has sections for (sft, dpo, kto, …) on the dataset that a run has exported."""
    if not dry_run:
        start("train", config, overrides, no_prefect)
    from cai.conduct.dry_run import dry_run as tried
    from cai.config_file import load_config

    outcomes = []
    for outcome in tried(load_config(config, overrides or []), tell):
        tell(_line(outcome))
        outcomes.append(outcome)
    tell(
        "not looked at: the dataset's rows (checked before a training's first step), memory and speed of the real model"
    )
    if any(outcome.problem for outcome in outcomes):
        raise typer.Exit(1)


def _line(outcome: Outcome) -> str:
    """One training in one line."""
    from cai.printable import printable

    if outcome.problem:
        return printable(f"{outcome.kind:<7} failed: {outcome.problem}")
    losses = " → ".join(f"{loss:.4f}" for loss in outcome.losses) or "none logged"
    left_out = (
        f"; left out, as there is no GPU here: {', '.join(outcome.left_out)}" if outcome.left_out else ""
    )
    return printable(f"{outcome.kind:<7} ok, loss {losses}, {outcome.seconds:.0f} s of training{left_out}")
