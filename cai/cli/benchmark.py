"""`cai benchmark`: standard benchmarks on the models of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.common import Config, Json, Set, print_json, tell

if TYPE_CHECKING:
    from rich.table import Table

    from cai.evaluate.benchmark import Measured


def benchmark(
    context: typer.Context,
    config: Config,
    tasks: Annotated[
        str, typer.Option(metavar="TASKS", help="Tasks of lm-evaluation-harness, with commas between.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="base, sft, dpo …; default: all that are there."),
    ] = None,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Run standard benchmarks (lm-evaluation-harness) on the base and the trained models of a run.

    What follows `--` goes to the harness as it is: `-- --num_fewshot 5 --limit 100`.
    """
    from cai.config_file import load_config
    from cai.evaluate.benchmark import benchmark as measure

    names = [task.strip() for task in tasks.split(",") if task.strip()]
    found = measure(
        load_config(config, overrides or []),
        names,
        model or [],
        context.args,
        lambda line: tell(line, err=True),
    )
    if as_json:
        print_json({name: one.model_dump(mode="json") for name, one in found.items()})
        return
    from rich.console import Console

    Console().print(table(found))


def table(found: dict[str, Measured]) -> Table:
    """Tasks and metrics down, models across: value ± standard error, in the harness's own units."""
    from rich.table import Table

    from cai.report.tables import plain

    drawn = Table(title="benchmarks, value ± standard error", title_justify="left")
    for column in ("task", "metric"):
        drawn.add_column(column)
    for name in found:
        drawn.add_column(name, justify="right")
    rows = {
        (task, metric): score
        for one in found.values()
        for task, scores in one.scores.items()
        for metric, score in scores.items()
    }
    for (task, metric), any_score in rows.items():
        cells = []
        for one in found.values():
            score = one.scores.get(task, {}).get(metric)
            error = "" if score is None or score.stderr is None else f" ± {score.stderr:.3f}"
            cells.append("–" if score is None else f"{score.value:.3f}{error}")
        arrow = {True: " ↑", False: " ↓", None: ""}[any_score.higher_is_better]
        drawn.add_row(plain(task), plain(metric) + arrow, *cells)
    return drawn
