"""A draft constitution as a YAML file that is pleasant to edit: fixed order, block texts, and a header.

Loading what is written gives the same constitution. Texts of several lines are literal blocks wherever YAML can
hold them so; defaults are not written.
"""

from __future__ import annotations

from typing import Any

import yaml

from cai.constitution.principle import ConstitutionFile
from cai.imports.draft import Draft

_UNSAFE_BREAKS = "\r\x85\u2028\u2029\ufeff"  # YAML takes these for line ends, or drops them
_ENDLESS = 1 << 30  # lines are not folded: an edit changes one line
SCHEMA = "constitution.schema.json"


class _Dumper(yaml.SafeDumper):
    """Literal blocks for texts of several lines, lists indented below their key, nothing aliased."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Short(dict[str, Any]):
    """A mapping that is written in one line."""


def _short(dumper: yaml.SafeDumper, value: _Short) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=True)


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    """A list; that of one or two plain words, such as `use`, in one line."""
    words = len(value) <= 2 and all(isinstance(item, str) and item.isidentifier() for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=words or None)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if any(character in value for character in _UNSAFE_BREAKS):
        style = '"'
    elif "\n" in value:
        # a block that begins with a blank or a line end needs an indentation mark, which few can read
        style = '"' if value[0] in " \n\t" else "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(_Short, _short)


def draft_yaml(draft: Draft, *, schema: bool = False) -> str:
    """The text of a draft's file. `schema`: whether a JSON Schema for editors lies beside it."""
    file = draft.file
    head = [f"# yaml-language-server: $schema={SCHEMA}"] if schema else []
    came = f"{file.source.at} (format {file.source.format})" if file.source else "another format"
    head += [
        f"# DRAFT, imported from {came}. Review every principle before a run uses it:",
        "# one sentence a statement, weights, priorities and tags as you want them. Then set a version.",
        "# `source` says where a principle comes from and keeps what has no field here; no model reads it, and",
        "# it may be deleted where the file need not be exported to that format again.",
    ]
    head += [f"# Left out: {count} × {what}." for what, count in draft.left_out.items()]
    plain = plain_file(file)
    principles = plain.pop("principles")
    source = plain.pop("source", None)
    parts = [_dumped(plain) + (_dumped({"source": source}) if source else "") + "principles:\n"]
    parts += [_indented(_dumped([principle])) for principle in principles]
    comments = ("".join(c if c.isprintable() else "?" for c in line) for line in head)
    return "\n".join(comments) + "\n" + "\n".join(parts)


def plain_file(file: ConstitutionFile) -> dict[str, Any]:
    """A constitution file as YAML writes it: in the order of the schema, without defaults, prompts as texts."""
    plain = file.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for principle in plain["principles"]:
        for name, key in (("examples", "conversation"), ("tests", "prompt")):
            for entry in principle.get(name, ()):
                turns = entry[key]
                if len(turns) == 1 and (
                    name == "examples" or turns[0]["content"].strip() == turns[0]["content"]
                ):
                    entry[key] = turns[0]["content"]
    for subject in (plain, *plain["principles"]):
        if "original" not in subject.get("source", {"original": None}):
            subject["source"] = _Short(subject["source"])
    return plain


def _dumped(value: Any) -> str:
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_ENDLESS, default_flow_style=False
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line.strip() else line for line in text.split("\n"))
