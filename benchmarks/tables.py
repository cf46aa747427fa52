"""Tables in the terminal and one JSON file for each benchmark, of figures measured in this run and no others."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

OUT = Path("outputs") / "bench"


class Column(NamedTuple):
    """A column: which figure of a row, under which heading, in which format. A figure that is not there is `–`."""

    key: str
    heading: str
    form: str = "{}"


def print_table(title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows to the terminal."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.heading, justify="left" if column.form == "{}" else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(column.key), column.form) for column in columns))
    Console(width=max(120, Console().width)).print(table)


def _cell(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value) if not isinstance(value, str) else value


def save(name: str, found: Mapping[str, Any]) -> Path:
    """Keep a result as `outputs/bench/NAME.json`, with what it was measured on and how busy that was."""
    machine = {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_bytes(orjson.dumps({"machine": machine, **found}, option=orjson.OPT_INDENT_2))
    return path
