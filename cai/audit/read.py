"""Rows of a file, of a folder of files, or of a dataset that `datasets` saved, one at a time.

Formats are those of prompt sources (`cai.sources.records`), and files that hold one JSON array, which are read whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from cai.config import SourceConfig
from cai.errors import ConfigError
from cai.given import open_given, read_given
from cai.sources import ID_COLUMNS
from cai.sources.records import SUFFIXES, BadRecord, check_source, read_records

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
Rows = Iterator[tuple[str, dict[str, Any] | BadRecord]]


def read(path: Path) -> Rows:
    """All rows with their ids (else numbers from 1, after the file's name where there are several).

    Raises ConfigError where there is nothing to read.
    """
    if path.is_dir() and any((path / name).is_file() for name in SAVED):
        return _saved(path)
    files = _files(path)
    for file in files:
        _checked(file)
    return _all(path, files)


def _all(path: Path, files: list[Path]) -> Rows:
    for file in files:
        name = f"{file.relative_to(path)}:" if len(files) > 1 else ""
        for number, row in _file(file):
            yield _id(row, f"{name}{number}"), row


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    suffixes = tuple(f"{suffix}{packed}" for suffix in SUFFIXES if suffix != ".txt" for packed in ("", ".gz"))
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.name.lower().endswith(suffixes)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.name not in ("dataset_info.json", "dataset_infos.json")
    ]
    if not found:
        raise ConfigError(
            f"{path}: no JSONL, JSON, CSV or Parquet file in this folder; name one that has rows"
        )
    return found


def _source(file: Path) -> SourceConfig:
    return SourceConfig(path=str(file))


def _checked(file: Path) -> None:
    try:
        check_source(_source(file))
    except ConfigError as error:
        raise _ours(error) from error


def _file(file: Path) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    try:
        array = _array(file)
        yield from read_records(_source(file)) if array is None else array
    except ConfigError as error:
        raise _ours(error) from error


def _array(file: Path) -> Iterator[tuple[int, dict[str, Any] | BadRecord]] | None:
    """The rows of a file that is one JSON array; None for any other."""
    if file.suffix.lower() != ".json":
        return None
    with open_given(file) as stream:
        if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return None
    try:
        rows = orjson.loads(read_given(file).removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{file}: not JSON ({error}); mend it") from error
    return (
        (number, row if isinstance(row, dict) else BadRecord("bad_json", f"item {number}: not an object"))
        for number, row in enumerate(rows, 1)
    )


def _saved(path: Path) -> Rows:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # the library and what is below it raise dozens of kinds
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: not a dataset that can be loaded ({problem}); save it again") from error
    splits: Mapping[str, Any] = found if isinstance(found, dict) else {"": found}
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            yield _id(row, f"{split}:{number}" if split else str(number)), row


def _id(row: dict[str, Any] | BadRecord, number: str) -> str:
    if isinstance(row, BadRecord):
        return number
    own = next((row[name] for name in ID_COLUMNS if isinstance(row.get(name), str | int)), None)
    return number if own is None or own == "" else str(own)


def _ours(error: ConfigError) -> ConfigError:
    """The reader speaks of prompts, which these rows are not."""
    return ConfigError(str(error).removeprefix("prompts: "))


def none_fits(path: Path, seen: Mapping[str, Any] | None, wanted: str) -> ConfigError:
    """What to raise where no row of a file is of the kind that an audit reads. `seen`: the first row."""
    if seen is None:
        return ConfigError(f"{path}: no rows; give a file with one object a line")
    names = ", ".join(str(name)[:40] for name in list(seen)[:12])
    return ConfigError(f"{path}: no row has {wanted}; its columns are {names}".replace("\n", " "))
