"""`cai audit`: what is wrong with revisions, replies and preference data. No model is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.common import Json, of_a_run, print_json, tell

if TYPE_CHECKING:
    from cai.audit.findings import Ledger

app = typer.Typer(
    no_args_is_help=True, help="Find what is wrong with revisions, replies and preference data."
)

Source = Annotated[
    Path, typer.Argument(metavar="FILE|RUN", help="A file or folder of rows, or a run's folder.")
]
FailOn = Annotated[
    str | None,
    typer.Option(
        "--fail-on",
        metavar="CONDITIONS",
        help='Exit 1 where one of them holds: "unchanged>0.05,prefix_leak>0".',
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write every finding, one JSON object a line.")
]
Examples = Annotated[int, typer.Option(min=0, help="Rows of each check that the terminal shows.")]


@app.command()
@of_a_run
def revisions(
    source: Source, as_json: Json = False, fail_on: FailOn = None, out: Out = None, examples: Examples = 3
) -> None:
    """Unchanged, regressed, evasive and leaking revisions of a run, or of a file of critique-revision chains."""
    from cai.audit.revisions import CHECKS, audit_revisions

    _audit(source, CHECKS, audit_revisions, (), _revision_lines, as_json, fail_on, out, examples)


@app.command()
@of_a_run
def refusals(
    source: Source, as_json: Json = False, fail_on: FailOn = None, out: Out = None, examples: Examples = 3
) -> None:
    """Full and partial refusals among the replies of a run or a file; agreement with people's labels, if any."""
    from cai.audit.refusals import CHECKS, audit_refusals

    _audit(source, CHECKS, audit_refusals, ("agreement",), _refusal_lines, as_json, fail_on, out, examples)


@app.command()
@of_a_run
def dataset(
    source: Source,
    eval_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--eval", metavar="FILE", help="Prompts of an evaluation, which must not be in the data."
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(min=1, help="Rows of the checks that are dear (near copies, language, personal data)."),
    ] = 10_000,
    as_json: Json = False,
    fail_on: FailOn = None,
    out: Out = None,
    examples: Examples = 3,
) -> None:
    """Copies, label noise, length bias, contamination, stray tokens, personal data and secrets in preference data."""
    from cai.audit.dataset import CHECKS, audit_dataset

    def audit(path: Path, ledger: Ledger) -> dict[str, Any]:
        return audit_dataset(path, ledger, eval_files or (), sample)

    _audit(source, CHECKS, audit, (), _dataset_lines, as_json, fail_on, out, examples)


def _audit(
    source: Path,
    checks: Mapping[str, tuple[str, str]],
    audit: Callable[[Path, Ledger], dict[str, Any]],
    shares: Sequence[str],
    lines: Callable[[Mapping[str, Any]], list[str]],
    as_json: bool,
    fail_on: str | None,
    out: Path | None,
    examples: int,
) -> None:
    """Audit, print, and exit 1 where a condition holds. `shares`: figures that conditions may name as well."""
    from cai.audit.conditions import failures, read_conditions
    from cai.audit.findings import Ledger

    conditions = read_conditions(fail_on, (*checks, *shares))
    ledger = Ledger(checks, out)
    try:
        figures = audit(source, ledger)
        ledger.publish()
    finally:
        ledger.discard()
    found = ledger.checks()
    failed = failures(conditions, found, {name: figures[name] for name in shares})
    if as_json:
        dumped = {name: check.model_dump(mode="json") for name, check in found.items()}
        print_json({"source": str(source), **figures, "failed": failed, "checks": dumped})
    else:
        from rich.console import Console

        from cai.audit.table import print_audit

        print_audit(f"audit of {source}", lines(figures), found, examples, Console())
    for line in failed:
        tell(f"failed   {line}", err=True)
    if failed:
        raise typer.Exit(1)


def _revision_lines(figures: Mapping[str, Any]) -> list[str]:
    ratio = figures["length_ratio"]
    line = f"{figures['chains']:,} chains with {figures['revisions']:,} revisions"
    line += f"; {figures['unrevised']:,} chains without one" if figures["unrevised"] else ""
    line += f"; {figures['unusable']:,} rows are no chain" if figures["unusable"] else ""
    if ratio["median"] is not None:
        spread = f"10–90 %: {ratio['p10']:g}–{ratio['p90']:g}"
        line += f"; last text {ratio['median']:g} × the first reply's length ({spread})"
    return [line]


def _refusal_lines(figures: Mapping[str, Any]) -> list[str]:
    kinds = figures["kinds"]
    lines = [f"{figures['replies']:,} replies: " + ", ".join(f"{name} {kinds[name]:,}" for name in kinds)]
    if figures["agreement"] is not None:
        at = figures["agreement_interval"]
        line = f"agreement with people on full refusal or not: {figures['agreement']:.1%} "
        line += f"[{at['low']:.1%}, {at['high']:.1%}] of {figures['labelled']:,}"
        line += f", kappa {figures['kappa_full']:.2f}" if figures["kappa_full"] is not None else ""
        lines.append(
            line + (f"; {figures['disputed']:,} disputed rows left out" if figures["disputed"] else "")
        )
        for people, row in figures["confusion"].items():
            lines.append(f"  people {people}: " + ", ".join(f"rules {rule} {n:,}" for rule, n in row.items()))
    for names, pair in figures["between_annotators"].items():
        lines.append(f"  {names} with each other: {pair['agreement']:.1%}")
    for name, one in figures["by_safety"].items():
        lines.append(
            f"{name} prompts: {one['full']:,} of {one['n']:,} refused wholly ({one['full_rate']['rate']:.1%})"
        )
    return lines


def _dataset_lines(figures: Mapping[str, Any]) -> list[str]:
    line = f"{figures['rows']:,} rows"
    if figures["rows"] > figures["sample"]:
        line += f", of which {figures['sample']:,} for near copies, language and personal data"
    if figures["length_ratio_median"] is not None:
        line += f"; chosen {figures['length_ratio_median']:g} × the length of rejected (median)"
    lines = [line]
    again = figures["repeats"]
    if again["pairs"]:
        opposite = f"{again['opposite']:,} of them with the opposite label"
        lines.append(f"{again['pairs']:,} rows repeat an earlier pair, {opposite}")
    if figures["languages"]:
        lines.append(
            "languages: " + ", ".join(f"{name} {n:,}" for name, n in list(figures["languages"].items())[:8])
        )
    return lines
