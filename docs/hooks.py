"""What mkdocs calls while it builds the site: reference pages written from the code, how-to pages found in the folder.

`<!-- cli -->` becomes every command with its options, as Typer documents it; `<!-- constitution -->` and
`<!-- config -->` the fields of both, from the JSON Schemas of the models that check them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def on_config(config: Any) -> Any:
    """Put every page of docs/ that the navigation does not name under How-to, by its title."""
    named = {page for entry in config["nav"] for page in _pages(entry)}
    (how_to,) = (entry["How-to"] for entry in config["nav"] if isinstance(entry, dict) and "How-to" in entry)
    how_to += sorted((path.name for path in DOCS.glob("*.md") if path.name not in named), key=_title)
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write what the marks in a page stand for."""
    for mark, write in {"cli": cli, "constitution": constitution, "config": config}.items():
        if f"<!-- {mark} -->" in markdown:
            markdown = markdown.replace(f"<!-- {mark} -->", write())
    return markdown


def cli() -> str:
    """The command line as Markdown."""
    import typer
    from typer.cli import get_docs_for_click

    from cai.cli import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="cai"), name="cai")
    return re.sub(r"^# `cai`\n", "", text)


def constitution() -> str:
    """The fields of each part of a constitution, as tables."""
    from cai.constitution import json_schema

    return _tables("A file", json_schema())


def config() -> str:
    """The sections of a run config, as tables."""
    from cai.config import RunConfig

    return _tables("A run", RunConfig.model_json_schema())


def _tables(title: str, found: dict[str, Any]) -> str:
    parts = [(title, found), *((name, part) for name, part in found["$defs"].items() if "properties" in part)]
    return "\n\n".join(_table(name, part) for name, part in parts)


def _table(name: str, part: dict[str, Any]) -> str:
    told = any("description" in found for found in part["properties"].values())
    columns = ("field", "type", "default", *(("what it is",) if told else ()))
    rows = [f"## {name}", "", part.get("description", ""), "", _row(columns), _row(["--"] * len(columns))]
    for field, found in part["properties"].items():
        default = "required" if field in part.get("required", ()) else ""
        if found.get("default") not in ({}, [], None):
            default = (
                f"`{json.dumps(found['default'])}`" if not isinstance(found["default"], dict) else "as below"
            )
        cells = [f"`{field}`", _type(found), default]
        rows.append(_row([*cells, *((found.get("description", ""),) if told else ())]))
    return "\n".join(rows)


def _row(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _type(found: dict[str, Any]) -> str:
    if "anyOf" in found:
        return " or ".join(dict.fromkeys(_type(one) for one in found["anyOf"]))
    if "$ref" in found:
        name = found["$ref"].rsplit("/", 1)[1]
        return "any" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "enum" in found or "const" in found:
        return ", ".join(f"`{json.dumps(one)}`" for one in found.get("enum", [found.get("const")]))
    if found.get("type") == "array":
        inside = {"anyOf": found["prefixItems"]} if "prefixItems" in found else found.get("items", {})
        return f"list of {_type(inside)}"
    if found.get("type") == "object":
        inside = found.get("additionalProperties")
        return f"mapping of names to {_type(inside)}" if isinstance(inside, dict) else "mapping"
    bounds = [f"{sign} {found[key]:g}" for key, sign in BOUNDS.items() if key in found]
    return " ".join([str(found.get("type", "any")), *bounds])


def _pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    inside = entry if isinstance(entry, list) else list(entry.values())
    return [page for one in inside for page in _pages(one)]


def _title(name: str) -> str:
    first = (DOCS / name).read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("# ").lower()
