"""Reading a run config: YAML plus `dotted.key=value` overrides, validated in full before anything runs.

Unknown keys, wrong types and impossible combinations are ConfigErrors that name file, line, key and, for a
typing slip, the nearest known key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cai.config import RunConfig, Yaml
from cai.errors import ConfigError
from cai.printable import printable, shortened
from cai.yaml_file import Unreadable, line_column, line_starts, parse_yaml, read_yaml

SHOWN = 200  # characters of a value that a message repeats


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a run config; `overrides` are `dotted.key=value` with YAML values.

    Raises ConfigError with `file:line: key: problem` for whatever is wrong in it.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise ConfigError(f"{path}: no such config file; start from one in flows/configs/")
        read = read_yaml(path, "config")
    except Unreadable as error:
        raise ConfigError(printable(f"{path}:{error.line}: {error}")) from error
    except OSError as error:  # too long a name
        raise ConfigError(
            printable(f"{path}: cannot be read ({error.strerror}); give a config file")
        ) from error
    for name, index in read.repeated:
        line, _ = line_column(line_starts(read.text), index)
        raise ConfigError(printable(f"{path}:{line}: {name!r} stands here twice; keep one"))
    data = read.data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a YAML mapping, this is {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    return validate_config(data, str(path), read.node)


def override_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A config with `dotted.key=value` overrides, validated again. Raises ConfigError."""
    data = config.model_dump(mode="json")
    for override in overrides:
        _override(data, override)
    return validate_config(data, "--set")


def validate_config(data: Mapping[str, Any], origin: str, tree: yaml.Node | None = None) -> RunConfig:
    """Build a RunConfig from plain data; the first problem found is raised as one ConfigError line."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
        loc = tuple(part for part in first["loc"])
        key = ".".join(str(part) for part in loc) or "(top level)"
        line = _line_of(tree, loc)
        where = f"{origin}:{line}" if line else origin
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(loc[-1]), _known_keys(loc[:-1]), n=1)
            problem = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
        elif first["type"] == "missing":
            problem = "this key is required"
        elif not problem.startswith("give ") and first["type"] != "value_error":
            problem = f"{problem} (got {shortened(repr(first['input']), SHOWN)})"
        raise ConfigError(printable(f"{where}: {shortened(key, SHOWN)}: {problem}")) from error


def _override(data: Yaml, override: str) -> None:
    key, separator, value = override.partition("=")
    said = printable(f"--set {shortened(override, SHOWN)}")
    if not separator or not key:
        raise ConfigError(f"{said}: write it as dotted.key=value")
    try:
        parsed = parse_yaml(value, "value").data
    except Unreadable as error:
        raise ConfigError(f"{said}: the value is not valid YAML") from error
    *parents, last = key.split(".")
    node: Any = data
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, said)]
        elif node.get(part) is None:
            node[part] = {}
            node = node[part]
        else:
            node = node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{said}: {part!r} is not a section")
    node[_index(node, last, said) if isinstance(node, list) else last] = parsed


def _index(items: list[Any], part: str, said: str) -> int:
    if re.fullmatch(r"[0-9]{1,6}", part) is None or int(part) >= len(items):
        raise ConfigError(f"{said}: {part!r} is not an index of a list of {len(items)}")
    return int(part)


def _line_of(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int | None:
    """Line (from 1) of the deepest part of `loc` that the document holds."""
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            hit = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if hit is None:
                return line or node.start_mark.line + 1
            line, node = hit[0].start_mark.line + 1, hit[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the section at `loc`, found by walking the JSON Schema."""
    schema = RunConfig.model_json_schema()
    node: Any = schema
    for part in loc:
        node = _resolve(schema, node)
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
    return list(_resolve(schema, node).get("properties", {}))


def _resolve(schema: Yaml, node: Any) -> Any:
    for option in node.get("anyOf", []):
        if "$ref" in option or option.get("type") in ("object", "array"):
            node = option
            break
    return schema["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
