"""The files of an export, written row by row: JSON lines, Parquet or a table, the same bytes for the same rows."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import orjson

from cai.export.formats import Kind, Made
from cai.export.record import Split
from cai.store import RowsWriter, guard, sync_folder

BATCH_ROWS = 1000  # rows of a Parquet file in memory at a time, and in one of its groups
SUFFIXES: dict[Kind, str] = {"parquet": ".parquet", "jsonl": ".jsonl", "csv": ".csv"}


class Writer(Protocol):
    """A file that is being written; `close` makes it whole."""

    def write(self, row: Made) -> None: ...
    def close(self) -> None: ...
    def discard(self) -> None: ...


class SplitFiles:
    """A file for each split, begun with its first row; raises StoreError where one cannot be written."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self._folder, self._kind = folder, kind
        self.open: dict[Split, Writer] = {}

    def write(self, split: Split, row: Made) -> None:
        """Append a row to the file of a split."""
        if split not in self.open:
            begin: dict[Kind, Callable[[Path], Writer]] = {
                "parquet": ParquetFile,
                "jsonl": JsonLines,
                "csv": Table,
            }
            self.open[split] = begin[self._kind](self._folder / f"{split}{SUFFIXES[self._kind]}")
        self.open[split].write(row)


@contextlib.contextmanager
def split_files(folder: Path, kind: Kind) -> Iterator[SplitFiles]:
    """The files of an export in `folder`: whole after the block, let go of where it fails."""
    files = SplitFiles(folder, kind)
    try:
        yield files
        for writer in files.open.values():
            writer.close()
    finally:
        for writer in files.open.values():
            writer.discard()


class JsonLines:
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._file = RowsWriter(path)

    def write(self, row: Made) -> None:
        """Append one row."""
        self._file.write_line(orjson.dumps(row))

    def close(self) -> None:
        """Publish the file."""
        self._file.publish()

    def discard(self) -> None:
        """Remove what was written; does nothing after `close`."""
        self._file.discard()


class Table:
    """A CSV file: every cell in quotes, lines that end as RFC 4180 has them, columns of the first row."""

    def __init__(self, path: Path) -> None:
        self._file = RowsWriter(path)
        self._begun = False

    def write(self, row: Made) -> None:
        """Append one row."""
        if not self._begun:
            self._line(list(row))
            self._begun = True
        self._line(list(row.values()))

    def _line(self, cells: list[Any]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, quoting=csv.QUOTE_ALL).writerow(cells)
        self._file.write_bytes(line.getvalue().encode())

    def close(self) -> None:
        """Publish the file."""
        self._file.publish()

    def discard(self) -> None:
        """Remove what was written; does nothing after `close`."""
        self._file.discard()


class ParquetFile:
    """A Parquet file whose column types are declared, so that an empty column changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Made] = []
        self._writer: Any = None

    def write(self, row: Made) -> None:
        """Append one row."""
        self._rows.append(row)
        if len(self._rows) == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow
        from pyarrow import parquet

        with guard(self._path):
            if self._writer is None:
                schema = pyarrow.schema([(name, _type(name, first)) for name, first in self._rows[0].items()])
                self._writer = parquet.ParquetWriter(self._path, schema)
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._writer.schema))
        self._rows = []

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        if self._rows:
            self._flush()
        with guard(self._path):
            self._writer.close()
            sync_folder(self._path.parent)

    def discard(self) -> None:
        """Let the file go; whoever made its folder removes it."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # what is still held may not fit on a full disk, and need not
                self._writer.close()


def _type(column: str, first: Any) -> Any:
    """The type of a column: texts, numbers, labels, lists of them, else turns. `first`: its value in the first row."""
    import pyarrow

    text, number, label = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
    known = {
        **dict.fromkeys(("p", "margin"), number),
        "label": label,
        **dict.fromkeys(("principles", "tags", "completions"), pyarrow.list_(text)),
        "labels": pyarrow.list_(label),
        "step_p": pyarrow.list_(number),
    }
    if isinstance(first, str):
        return text
    return known.get(column) or pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))
