"""`cai constitution`: check and read constitutions, and bring them from and to other people's formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.common import Json, print_json, tell
from cai.cli.lint import File, lint, show
from cai.cli.tryout import test, try_
from cai.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Check and read constitutions; import and export other formats.")
app.command()(lint)
app.command()(show)
app.command("try")(try_)
app.command()(test)

Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="File to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT where it is there already.")]
FORMAT = "anthropic-sl, anthropic-rl, …-shots, hf, nemo, oct, markdown; an unknown name lists all."


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
    from cai.imports import import_file
    from cai.imports.write import SCHEMA, draft_yaml
    from cai.store import write_text

    _free(output, file, force)
    found = import_file(file, format)
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
    from cai.constitution.extends import resolve
    from cai.imports import export_text
    from cai.store import write_text

    _free(output, file, force)
    found = resolve(file)
    principles = tuple(defined.principle for defined in found.principles)
    text, left_out = export_text(found.file.model_copy(update={"principles": principles}), format)
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


def _tell(
    head: str, format: str, output: Path, counts: dict[str, int], left_out: dict[str, int], as_json: bool
) -> None:
    if as_json:
        print_json({"output": str(output), "format": format, "counts": counts, "left_out": left_out})
        return
    tell(f"{head} (format {format})")
    tell("  " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    for what, count in left_out.items():
        tell(f"  left out: {count} × {what}")
