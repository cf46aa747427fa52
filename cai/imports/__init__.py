"""Other people's constitutions: text of a known format → a draft constitution, and back.

Every format is a reader and, where it can be one, a writer; both are pure functions. Nothing is silently lost:
what a draft has no field for stays in its `source`, which no model reads, or is counted as left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cai.constitution.principle import ConstitutionFile
from cai.errors import ConstitutionError
from cai.imports import chains, chats, preferences, prose, requests, traits
from cai.imports.draft import Draft, Export, Names
from cai.printable import printable
from cai.yaml_file import Unreadable, read_text


class Format(NamedTuple):
    """A format: how its text is written, what tells it from the others, its reader and its writer."""

    kind: Literal["json", "jsonl", "text"]
    looks: str
    read: Callable[[Any], Draft]
    write: Callable[[ConstitutionFile], Export] | None


FORMATS: dict[str, Format] = {
    requests.SL: Format("json", "{id: {prompt, edit_request}}", requests.read_sl, requests.write_sl),
    requests.RL: Format("json", '["… Options:"]', requests.read_rl, requests.write_rl),
    chains.SL_SHOTS: Format("json", '["… CritiqueRequest: …"]', chains.read_sl_shots, chains.write_sl_shots),
    preferences.RL_SHOTS: Format(
        "json", "[{prompt, corrects, incorrects}]", preferences.read_rl_shots, preferences.write_rl_shots
    ),
    preferences.RL_REASONS: Format(
        "json", '[{prompt: "… (A) [[[…]]]"}]', preferences.read_rl_reasons, preferences.write_rl_reasons
    ),
    chats.HF: Format("json", "{constitutions: [{critic, revision}]}", chats.read_hf, chats.write_hf),
    chats.NEMO: Format("json", "{samples: [[{role, content}]]}", chats.read_nemo, chats.write_nemo),
    traits.OCT: Format("jsonl", "lines of {trait}", traits.read_oct, traits.write_oct),
    prose.PROSE: Format("text", "a .md or .txt file", prose.read_prose, None),
}


def import_file(file: Path, format: str | None = None) -> Draft:
    """A draft constitution from a file, see `import_text`. Raises ConstitutionError."""
    name = printable(str(file))
    try:
        return import_text(read_text(file), name, format)
    except Unreadable as error:
        raise ConstitutionError(printable(f"{name}:{error.line}:{error.column}: {error}")) from error


def import_text(text: str, name: str, format: str | None = None) -> Draft:
    """A draft constitution from the text of the file `name`; the format is detected where none is named.

    Raises ConstitutionError, `name: place: what; fix`, for an unknown format and for text that is not of it.
    """
    try:
        if not text.strip():
            raise ConstitutionError("the file is empty; give one that holds a constitution")
        data = _parsed(text, FORMATS[_known(format)].kind) if format else None
        chosen = format or detect(text, name)
        found = FORMATS[chosen].read(_parsed(text, FORMATS[chosen].kind) if data is None else data)
    except ConstitutionError as error:
        raise ConstitutionError(f"{name}: {error}") from error
    stem = name.replace("\\", "/").rpartition("/")[2]
    source = found.file.source
    file = found.file.model_copy(
        update={
            "name": Names().new(stem.rpartition(".")[0] or stem, whole=True),
            "source": source.model_copy(update={"at": stem}) if source else None,
        }
    )
    return found._replace(file=file)


def export_text(file: ConstitutionFile, format: str) -> tuple[str, dict[str, int]]:
    """A constitution in another format, and what had to be left out. Raises ConstitutionError."""
    chosen = FORMATS[_known(format)]
    if chosen.write is None:
        able = ", ".join(name for name, one in FORMATS.items() if one.write)
        raise ConstitutionError(f"format {format!r} can only be imported; export to one of {able}")
    try:
        data, left_out = chosen.write(file)
    except (LookupError, TypeError, AttributeError) as error:
        raise ConstitutionError(
            f"the 'original' of a 'source' is not as an import of {format} wrote it ({error!r}); remove it"
        ) from error
    if not data or (isinstance(data, dict) and not any(data.values())):
        raise ConstitutionError(f"no principle holds anything that {format!r} could; choose another format")
    if chosen.kind == "jsonl" and isinstance(data, list):
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in data), left_out
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n", left_out


def detect(text: str, name: str) -> str:
    """The format of a text. Raises ConstitutionError that says what was looked for."""
    suffix = name.lower().rpartition(".")[2]
    found = None
    if suffix in ("md", "markdown", "txt", "text", "rst"):
        found = prose.PROSE
    elif suffix == "jsonl" or (suffix != "json" and _is_lines(text)):
        first = _parsed(text, "jsonl")[0]
        found = traits.OCT if isinstance(first, dict) and "trait" in first else None
    elif suffix == "json" or text.lstrip()[:1] in ("{", "["):
        try:
            found = _detect_json(_json(text, 1))
        except ConstitutionError:
            if suffix == "json":
                raise
    if found is None:
        looked = "; ".join(f"{one.looks} ({name})" for name, one in FORMATS.items())
        raise ConstitutionError(f"no one known format (looked for {looked}); name it with --format")
    return found


def _detect_json(data: Any) -> str | None:
    if isinstance(data, dict):
        named = [name for key, name in (("constitutions", chats.HF), ("samples", chats.NEMO)) if key in data]
        if named:
            return named[0] if len(named) == 1 else None
        entries = list(data.values())
        return requests.SL if entries and all("edit_request" in _keys(entry) for entry in entries) else None
    entries = data if isinstance(data, list) else []
    if entries and all(isinstance(entry, str) for entry in entries):
        if all("\n\nCritiqueRequest:" in entry for entry in entries):
            return chains.SL_SHOTS
        return requests.RL if all(entry.rstrip().endswith("Options:") for entry in entries) else None
    if entries and all("corrects" in _keys(entry) for entry in entries):
        return preferences.RL_SHOTS
    options = entries and all("[[[" in str(_keys(entry).get("prompt")) for entry in entries)
    return preferences.RL_REASONS if options else None


def _keys(entry: Any) -> dict[str, Any]:
    return entry if isinstance(entry, dict) else {}


def _is_lines(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines) > 1 and all(line[0] == "{" and line.rstrip()[-1] == "}" for line in lines)


def _known(format: str) -> str:
    if format not in FORMATS:
        raise ConstitutionError(f"format {format!r} is not known; use one of {', '.join(FORMATS)}")
    return format


def _parsed(text: str, kind: Literal["json", "jsonl", "text"]) -> Any:
    if kind == "text":
        return text
    if kind == "json":
        return _json(text, 1)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_json(line, number) for number, line in lines]


def _json(text: str, line: int) -> Any:
    """One JSON value; refuses what would not come back: repeated keys, NaN, and lone surrogates."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        whole: dict[str, Any] = {}
        for key, value in found:
            if key in whole:
                raise ConstitutionError(f"the key {key!r} stands twice in one object; keep one")
            whole[key] = value
        return whole

    def constant(name: str) -> None:
        raise ConstitutionError(f"{name} is no JSON; write a number or null")

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"{line + error.lineno - 1}:{error.colno}"
        raise ConstitutionError(f"{place}: not valid JSON: {error.msg}; mend the syntax here") from error
    except UnicodeEncodeError as error:
        raise ConstitutionError("a text holds half of a surrogate pair; write the whole character") from error
    except (ValueError, RecursionError) as error:
        raise ConstitutionError(f"line {line}: not usable JSON: {error}; mend it") from error
    return data
