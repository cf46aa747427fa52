"""`cai marks`: what people said about a run's judged rows, how often the judge is right, and both as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cai.cli.common import Json, Run, of_a_run, print_json, tell
from cai.errors import ConfigError

if TYPE_CHECKING:
    from cai.marks.mark import Mark

app = typer.Typer(
    no_args_is_help=True, help="Marks that people gave a run's labels: plan, list, figures, export."
)

Author = Annotated[str | None, typer.Option(metavar="NAME", help="Marks of this author alone.")]


@app.command()
@of_a_run
def plan(
    run: Run,
    margin: Annotated[
        float, typer.Option(help="Points to which the judge's accuracy is to be known, at 95 %.")
    ] = 5,
    expected: Annotated[
        float, typer.Option(help="Accuracy that is expected; at 0.5 the size is enough for any.")
    ] = 0.5,
    of: Annotated[
        Literal["labelled", "scored"],
        typer.Option(help="Rows to draw: those with a label, or all that were scored (to calibrate by)."),
    ] = "labelled",
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    as_json: Json = False,
) -> None:
    """Plan an audit: how many rows people have to look at, and which; they are marked in `cai view RUN`."""
    import getpass

    from cai.marks.plan import make_plan

    _check_run(run)
    made = make_plan(run, of=of, margin=margin / 100, expected=expected, seed=seed, author=getpass.getuser())
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    sure = "whatever it is" if expected == 0.5 else f"if it is about {expected:g}"
    tell(f"{made.size:,} of {made.rows:,} {of} rows tell the judge's accuracy to ±{margin:g} points, {sure}")
    tell(f"mark them in: cai view {run}")


@app.command("list")
@of_a_run
def list_(run: Run, author: Author = None, as_json: Json = False) -> None:
    """The marks that count: the last one of each author on each row."""
    marks, damaged = _marks(run, author)
    if as_json:
        print_json({"marks": [mark.model_dump(mode="json") for mark in marks], "damaged": damaged})
        return
    from rich.console import Console

    from cai.report.marks import print_marks

    print_marks(marks, damaged, Console())


@app.command()
@of_a_run
def accuracy(run: Run, author: Author = None, as_json: Json = False) -> None:
    """How often the judge is right, by the marks of the planned audit, with exact 95 % intervals."""
    from cai.marks.figures import audit_figures
    from cai.marks.plan import read_audit

    marks, _ = _marks(run, author)
    audit = read_audit(run)
    if audit is None:
        raise ConfigError(f"{run}: no audit is planned; run `cai marks plan {run}` first")
    found = audit_figures(audit, marks, author)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.console import Console

    from cai.report.marks import print_figures

    print_figures(found, Console())


@app.command()
@of_a_run
def export(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the labelled pairs go (JSONL).")],
    author: Author = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose verdicts go along; default: the run's only judge's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Marked rows as labelled pairs with recorded verdicts, for `cai judge replay`, `qualify` and `calibrate`."""
    from cai.marks.export import exported, run_constitution
    from cai.store import write_rows
    from cai.tryout.plan import run_config

    marks, _ = _marks(run, author)
    found = exported(run, run_config(run), run_constitution(run), marks, judge)
    write_rows(out, found.rows)
    told: dict[str, Any] = {
        "file": str(out),
        "pairs": len(found.rows),
        "gold": sum(row.gold is not None for row in found.rows),
        "stale": found.stale,
        "judge": found.judge,
    }
    if as_json:
        print_json(told)
        return
    verdicts = (
        f"with the verdicts of {found.judge}"
        if found.judge
        else "without verdicts; --judge NAME adds a judge's"
    )
    tell(f"{out}: {told['pairs']:,} pairs, {told['gold']:,} of them with a gold, {verdicts}")
    if found.stale:
        tell(f"{found.stale:,} marked rows are left out: the run has other texts by now", err=True)


def _marks(run: Path, author: str | None) -> tuple[list[Mark], int]:
    """The marks of a run, of one author or of all, and the number of damaged lines."""
    from cai.marks.mark import read_marks

    _check_run(run)
    rows, damaged = read_marks(run)
    authors = {mark.author for mark in rows}
    if author is not None and author not in authors:
        known = f"marks are by {', '.join(sorted(authors))}" if authors else "nobody has marked anything"
        raise ConfigError(f"--author {author}: has marked nothing in {run}; {known}")
    return [mark for mark in rows if author in (None, mark.author)], damaged


def _check_run(run: Path) -> None:
    from cai.tryout.plan import run_config

    run_config(run)
