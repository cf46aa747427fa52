"""Findings of `constitution lint` for people and for CI. What stands in a file cannot steer either."""

from __future__ import annotations

from cai.constitution.document import Finding
from cai.constitution.rewrite import Fixed
from cai.printable import printable

FORMATS = ("text", "github")


def finding_line(finding: Finding, format: str) -> str:
    """One finding in one line: for a terminal, or as an annotation of GitHub Actions."""
    if format == "github":
        return _annotation(finding.severity, finding.file, finding.line, finding.column, finding.message)
    place = f"{finding.file}:{finding.line}:{finding.column}"
    return printable(f"{place}: {finding.severity}: {finding.message}")


def fixed_line(fixed: Fixed, format: str) -> str:
    """The same for what was mended."""
    if format == "github":
        return _annotation("notice", fixed.file, fixed.line, fixed.column, f"fixed: {fixed.message}")
    return printable(f"{fixed.file}:{fixed.line}:{fixed.column}: fixed: {fixed.message}")


def _annotation(kind: str, file: str, line: int, column: int, message: str) -> str:
    name = _escaped(file).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} file={name},line={line},col={column}::{_escaped(message)}"


def _escaped(text: str) -> str:
    """A text as a workflow command takes it; other control characters are replaced."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return printable(escaped)
