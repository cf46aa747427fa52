"""Mutated YAML and random bytes as a constitution: findings or a constitution, and never another exception."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cai.cli import app
from cai.constitution.lint import lint
from cai.constitution.rewrite import mend_file
from cai.errors import ConstitutionError

HEAD = 'schema: 1\nname: test\nversion: "1"\n'
PIECES = [
    "principles:",
    "extends:",
    "id",
    "statement",
    "&a ",
    "*a",
    "<<: *a",
    "- ",
    "\n",
    "  ",
    "\t",
    ": ",
    "[",
    "]",
    "{",
    "}",
    "|\n",
    ">-\n",
    "'",
    '"',
    "#",
    "!!int ",
    "!!set ",
    "!!timestamp ",
    "!!binary ",
    "? ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "no",
    "1.10",
    "2024-01-01",
    "0x1F",
    "null",
    "\ufeff",
    "\x00",
    "\u2028",
    "\U0001f600",
    "\\ud800",
    "\r",
    "-9" * 99,
    "statment",
    "aplies_to",
]
SEED = f"""# c
{HEAD}principles:
  - &p
    id: a
    statement: &s |
      The reply greets.
    weight: 2
    applies_to: [x, 'y']
    examples:
      - {{conversation: Hi, reply: Go., critique: Rude., violated: true}}
    source: {{format: hf, original: {{a: [1, 2.5, null]}}}}
  - <<: *p
    id: b
    judge: *s
    tests:
      - prompt:
          - role: user
            content: "Hi\\n"
        better: B
        worse: W
"""
edits = st.lists(
    st.tuples(st.integers(0, len(SEED)), st.integers(0, 12), st.sampled_from(PIECES) | st.text(max_size=3)),
    max_size=6,
)


def safe(path: Path) -> None:
    """What is not read is told; what is read can be written; what is mended is read."""
    errors = [finding for finding in lint(path) if finding.severity == "error"]
    assert all(finding.line > 0 and finding.column > 0 and str(finding).isprintable() for finding in errors)
    done = CliRunner().invoke(app, ["constitution", "show", str(path), "--json"])
    if errors:
        assert isinstance(done.exception, ConstitutionError) and str(done.exception) == str(errors[0])
    else:
        assert done.exit_code == 0 and json.loads(done.stdout)["principles"]
    if mend_file(path):
        assert not any("not valid YAML" in finding.message for finding in lint(path))
        assert mend_file(path) == []


@pytest.mark.slow
@given(edits)
def test_any_mutation_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int, str]]
) -> None:
    """Findings or a constitution, and never another exception."""
    text = SEED
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    path = tmp_path_factory.mktemp("mutated") / "c.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    safe(path)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """At the start of a file, and after a head that is valid."""
    path = tmp_path_factory.mktemp("random") / "c.yaml"
    for before in (b"", HEAD.encode()):
        path.write_bytes(before + data)
        safe(path)
