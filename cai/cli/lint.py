"""`cai constitution lint` and `show`: what is wrong with constitution files, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.common import Json, print_json, tell
from cai.errors import ConfigError

# what cannot be read is a finding like any other, and not the option parser's business
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", readable=False)]
File = Annotated[Path, typer.Argument(metavar="FILE", readable=False)]
TaggedBy = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="CONFIG", help="Run config; also tell principles whose tags no prompt has."
    ),
]
Fix = Annotated[bool, typer.Option("--fix", help="Mend what is certain in the files, and check them again.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 where there are warnings.")]
Format = Annotated[str, typer.Option("--format", help="text, or github for annotations in GitHub Actions.")]


def lint(
    files: Files,
    config: TaggedBy = None,
    fix: Fix = False,
    strict: Strict = False,
    format: Format = "text",
    as_json: Json = False,
) -> None:
    """Check constitution files; exit 2 where one has an error, 1 with --strict where there are only warnings."""
    from cai.config_file import load_config
    from cai.constitution.lint import lint
    from cai.constitution.rewrite import mend_file
    from cai.report.findings import FORMATS, finding_line, fixed_line

    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is not known; use one of {', '.join(FORMATS)}")
    sources = load_config(config).prompts if config is not None else None
    fixed = [one for file in files for one in mend_file(file)] if fix else []
    # a parent's errors are also found by way of its children
    findings = list(dict.fromkeys(finding for file in files for finding in lint(file, sources)))
    if as_json:
        told = {"fixed": [one._asdict() for one in fixed]} if fix else {}
        print_json({"findings": [finding._asdict() for finding in findings], **told})
    else:
        for line in [fixed_line(one, format) for one in fixed] + [finding_line(f, format) for f in findings]:
            tell(line)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(2)
    if strict and findings:
        raise typer.Exit(1)


def show(file: File, as_json: Json = False) -> None:
    """Print a constitution with everything that it extends resolved, and where each principle comes from."""
    from cai.constitution.extends import resolve
    from cai.report.principles import principles_table, resolved_json

    found = resolve(file)
    if as_json:
        print_json(resolved_json(found))
        return
    from rich.console import Console

    Console().print(principles_table(found))
