"""Prompt files and hub datasets as a stream of rows, whatever their format; memory stays bounded.

A line that cannot be read is a `BadRecord` and the stream goes on; a file that cannot be read is a
ConfigError with the fix. Compressed text files are recognised by their first bytes, not by their name.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import orjson

from cai.config import SourceConfig
from cai.errors import ConfigError
from cai.given import LONGEST_LINE, bounded_lines, open_given
from cai.printable import printable

Format = Literal["jsonl", "csv", "parquet", "text"]
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
BATCH_ROWS = 1024  # rows of a Parquet file in memory at a time
GUARDED = (
    "guarded"  # column of an exported table: the cells that got an apostrophe, so that none is a formula
)
_BOM = b"\xef\xbb\xbf"


class BadRecord(NamedTuple):
    """A line that is no row; `reason` is the one it is dropped under."""

    reason: str
    detail: str


Record = tuple[int, dict[str, Any] | BadRecord]  # line or row number from 1, and what is there


def origin(source: SourceConfig) -> str:
    """What messages call a source: its path or its dataset."""
    return source.path or str(source.dataset)


def check_source(source: SourceConfig) -> None:
    """Raise ConfigError where a file is missing or its format unknown, before any row is read."""
    if source.path is None:
        return
    path = Path(source.path)
    if path.is_dir():
        raise ConfigError(f"prompts: {path} is a folder; name the file in it, or give it as 'dataset'")
    if not path.is_file():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "paths are relative to where cai runs"
        raise ConfigError(f"prompts: there is no file {path}; {hint}")
    _format(source, path)


def read_records(source: SourceConfig) -> Iterator[Record]:
    """All rows of a source with their numbers. Raises ConfigError where it cannot be read."""
    if source.path is None:
        yield from _hub(source)
        return
    path = Path(source.path)
    kind = _format(source, path)
    try:
        if kind == "parquet":
            yield from _parquet(path)
            return
        reader: Callable[[Path, IO[bytes]], Iterator[Record]] = {"jsonl": _jsonl, "csv": _csv, "text": _text}[
            kind
        ]
        with open_given(path) as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            yield from reader(path, cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"prompts: {path} is not a whole gzip file ({error}); fetch it again") from error
    except OSError as error:
        problem = printable(" ".join(str(error.strerror or error).split()))
        raise ConfigError(f"prompts: {path} cannot be read ({problem}); check it") from error


def _format(source: SourceConfig, path: Path) -> Format:
    name = path.name.lower().removesuffix(".gz")
    found = source.format or SUFFIXES.get(Path(name).suffix)
    if found is None:
        known = "jsonl, csv, parquet or text"
        raise ConfigError(f"prompts: the name of {path} does not tell its format; set 'format' to {known}")
    return found


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1; only a newline ends one."""
    for number, line in enumerate(bounded_lines(file.readline), 1):
        body = line.removeprefix(_BOM) if number == 1 else line
        if body.strip():
            yield number, body


def _jsonl(path: Path, file: IO[bytes]) -> Iterator[Record]:
    for number, line in _lines(file):
        if number == 1 and line.lstrip().startswith(b"["):
            raise ConfigError(f"prompts: {path} is one JSON array; write one object a line (jq -c '.[]')")
        yield number, _json_row(line, number)


def _json_row(line: bytes, number: int) -> dict[str, Any] | BadRecord:
    try:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = json.loads(line)  # takes what orjson does not: escapes of lone surrogates
    except (ValueError, RecursionError) as error:
        return BadRecord("bad_json", f"line {number}: {error}")
    return row if isinstance(row, dict) else BadRecord("bad_json", f"line {number}: not an object")


def _csv(path: Path, file: IO[bytes]) -> Iterator[Record]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    csv.field_size_limit(LONGEST_LINE)
    rows = csv.DictReader(bounded_lines(text.readline), strict=True)
    try:
        for row in rows:
            if None in row:
                detail = f"line {rows.line_num}: more cells than the header has; quote cells with commas"
                yield rows.line_num, BadRecord("bad_csv", detail)
            else:
                yield rows.line_num, _unguarded(row)
    except csv.Error as error:
        raise ConfigError(f"prompts: {path}: after line {rows.line_num}: {error}; mend the quotes") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts: {path} is not UTF-8 ({error.reason}); save it as UTF-8") from error


def _unguarded(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an exported table without the apostrophes that the export put before its cells."""
    named = (row.pop(GUARDED, None) or "").split()
    return row | {name: row[name].removeprefix("'") for name in named if row.get(name)}


def _text(path: Path, file: IO[bytes]) -> Iterator[Record]:
    for number, line in _lines(file):
        try:
            yield number, {"text": line.removesuffix(b"\n").removesuffix(b"\r").decode()}
        except UnicodeDecodeError:
            yield number, BadRecord("bad_text", f"line {number}: not UTF-8")


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=BATCH_ROWS)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"prompts: {path} is not a readable Parquet file ({problem}); check it") from error


def _hub(source: SourceConfig) -> Iterator[Record]:
    import datasets

    try:
        rows = datasets.load_dataset(
            source.dataset, split=source.split, revision=source.revision, streaming=True
        )
        yield from enumerate(rows, 1)
    except Exception as error:  # the library and what is below it raise dozens of kinds
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "check its name, the split and the network"
        raise ConfigError(
            f"prompts: dataset {source.dataset!r}, split {source.split!r}: {problem}; {fix}"
        ) from error
