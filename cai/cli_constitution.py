"""`cai constitution`: check and read constitutions, and bring them from and to other people's formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli_common import Json, print_json
from cai.errors import ConfigError, ConstitutionError

app = typer.Typer(no_args_is_help=True, help="Check and read constitutions; import and export other formats.")
MOST_BYTES = 10_000_000  # a longer file is no constitution, and a YAML of it nothing to edit

File = Annotated[Path, typer.Argument(metavar="FILE")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="File to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT where it is there already.")]
FORMAT = "anthropic-sl, anthropic-rl, …-shots, hf, nemo, oct, markdown; an unknown name lists all."


@app.command()
def lint(files: list[Path], as_json: Json = False) -> None:
    """Check constitution files; exit 1 where one has an error."""
    from cai.constitution import lint

    findings = [finding for file in files for finding in lint(file)]
    if as_json:
        print_json({"findings": [finding._asdict() for finding in findings]})
    else:
        for finding in findings:
            typer.echo(
                f"{finding.file}:{finding.line}:{finding.column}: {finding.severity}: {finding.message}"
            )
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
def show(file: Path, as_json: Json = False) -> None:
    """Print a constitution with everything that it extends resolved."""
    from cai.constitution import load_constitution

    found = load_constitution(file)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.console import Console
    from rich.table import Table

    from cai.report.tables import plain

    table = Table(
        "id", "statement", "use", "weight", "priority", title=f"{plain(found.name)} {plain(found.version)}"
    )
    for p in found.principles:
        table.add_row(
            plain(p.id), plain(p.statement), ", ".join(sorted(p.use)), f"{p.weight:g}", str(p.priority)
        )
    Console().print(table)


@app.command("import")
def import_(
    file: File,
    output: Output,
    format: Annotated[
        str | None, typer.Option(help=f"Format of FILE, where it is not detected: {FORMAT}")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Draft a constitution from a file in another format; what cannot be held is listed."""
    from cai.imports import import_text
    from cai.imports.write import SCHEMA, draft_yaml
    from cai.store import write_text

    _free(output, file, force)
    found = import_text(_read(file), str(file).encode("utf-8", "replace").decode(), format)
    write_text(output, draft_yaml(found, schema=(output.parent / SCHEMA).is_file()))
    principles = found.file.principles
    counts = {
        "principles": len(principles),
        "examples": sum(len(principle.examples) for principle in principles),
        "tests": sum(len(principle.tests) for principle in principles),
    }
    chosen = found.file.source.format if found.file.source else ""
    _tell(
        f"{output}: draft from {file}, to review",
        chosen,
        output,
        counts | found.counts,
        found.left_out,
        as_json,
    )


@app.command()
def export(
    file: File,
    output: Output,
    format: Annotated[str, typer.Option(help=f"Format to write: {FORMAT}")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a constitution (with all that it extends) in another format; what that cannot hold is listed."""
    from cai.imports import export_text
    from cai.lint import resolve
    from cai.store import write_text

    _free(output, file, force)
    found = resolve(file)
    if found.findings or found.document.file is None:
        raise ConstitutionError(str(found.findings[0]))
    principles = tuple(defined.principle for defined in found.principles)
    text, left_out = export_text(found.document.file.model_copy(update={"principles": principles}), format)
    write_text(output, text)
    counts = {"principles": len(principles) - left_out.get("principles", 0)}
    _tell(f"{output}: {file} as {format}", format, output, counts, left_out, as_json)


def _free(output: Path, file: Path, force: bool) -> None:
    """Refuses an OUT that would be lost by writing to it."""
    if output.is_dir():
        raise ConfigError(f"{output}: is a folder; give --output the name of a file")
    if output.exists() and file.exists() and output.samefile(file):
        raise ConfigError(f"{output}: is the file that is read; give --output another name")
    if output.exists() and not force:
        raise ConfigError(f"{output}: is there already; give another --output, or --force to replace it")


def _read(file: Path) -> str:
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise ConfigError(f"{file}: {size / 1e6:.1f} MB; import at most {MOST_BYTES / 1e6:.0f} MB")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a constitution file") from error
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1} ({error.object[error.start]:#04x})"
        raise ConfigError(f"{file}: {place} is not UTF-8; save the file as UTF-8") from error


def _tell(
    head: str, format: str, output: Path, counts: dict[str, int], left_out: dict[str, int], as_json: bool
) -> None:
    if as_json:
        print_json({"output": str(output), "format": format, "counts": counts, "left_out": left_out})
        return
    typer.echo(f"{head} (format {format})")
    typer.echo("  " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    for what, count in left_out.items():
        typer.echo(f"  left out: {count} × {what}")
