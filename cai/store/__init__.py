"""Files of rows: one JSON object a line, published whole or not at all.

A reader never sees half a file: rows go to a temporary file beside the target, which is fsynced and
renamed over it, and the folder is fsynced so that the name survives a power cut as well. Nothing here
appends to a published file; what grows call by call is the journal's business.

Text that came from a model may hold a lone surrogate, which UTF-8 cannot carry. Such a row (and only
such a row) is written with ASCII escapes, so that it reads back as the same string.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from cai.errors import StoreError
from cai.given import open_given
from cai.printable import one_line
from cai.rows import Row
from cai.store.lock import lives

Model = TypeVar("Model", bound=BaseModel)
BUFFER = 1 << 18
_RIGHTS = "give this user the right to write there, or set 'outputs' to another folder"
ADVICE = {  # by errno: what helps, before the same command is run again
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "this user's share of that disk is used up: free some of it, or have it raised",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "that disk is mounted read-only: mount it for writing, or set 'outputs' to another folder",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: "the disk reports a fault: see the kernel's log (dmesg), and take another disk if it goes on",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENOLCK: "that file system gives no locks: set 'outputs' to a folder on one that does",
    errno.ENOTSUP: "that file system cannot do this: set 'outputs' to a folder on another one",
    errno.ENOENT: "it may have been deleted meanwhile: run again, and what is missing is made again",
}
TEMPORARY = re.compile(r"^\..+\.(\d+)-[0-9a-f]{8}\.tmp$")


class Published(Row):
    """A file that is complete on disk: where, how many rows (lines) and the SHA-256 of its bytes, in hex."""

    path: Path
    rows: int
    sha256: str


@contextlib.contextmanager
def guard(path: Path) -> Iterator[None]:
    """Turn an OSError of the block (disk full, read-only, missing …) into a StoreError that names `path`."""
    try:
        yield
    except OSError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: OSError) -> StoreError:
    """What to raise where the system refuses a file."""
    return StoreError(told(error, path))


def told(error: OSError, path: Path | None = None) -> str:
    """What the system refused, where, and what to do about it, in one line. `path`: None for the error's own."""
    advice = ADVICE.get(error.errno or 0, "check space and permissions")
    place = path or error.filename2 or error.filename
    return one_line(f"{f'{place}: ' if place else ''}{error.strerror or error}; {advice}")


def is_refusal(error: OSError) -> bool:
    """True for a file that the system refused: the user's to mend, and no bug of ours."""
    return error.errno in ADVICE and error.filename is not None


def encode(row: BaseModel) -> bytes:
    """One row as JSON without a newline; the same row always gives the same bytes."""
    try:
        return row.__pydantic_serializer__.to_json(row)  # what model_dump_json calls, and decodes
    except PydanticSerializationError:  # a lone surrogate
        return json.dumps(row.model_dump(), separators=(",", ":")).encode()


def decode(data: bytes | str, model: type[Model]) -> Model:
    """The inverse of `encode`. Raises ValueError (or ValidationError, which is one) for other data."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        if error.errors(include_input=False)[0]["type"] != "json_invalid":
            raise
    try:
        return model.model_validate(json.loads(data))  # the standard parser takes lone surrogates
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def explain(error: ValueError) -> str:
    """What `decode` found wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        return f"{field}: {first['msg']}" if field else first["msg"]
    return str(error)


class RowsWriter:
    """Writes rows to a temporary file beside `path`; `publish` puts it in place, `discard` removes it.

    `buffer`: bytes that are held before they are written.
    """

    def __init__(self, path: Path, buffer: int = BUFFER) -> None:
        self.path = path
        self.rows = 0
        self._digest = hashlib.sha256()
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        with guard(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("xb", buffering=buffer)

    def write(self, row: BaseModel) -> None:
        """Append one row."""
        self.write_line(encode(row))

    def write_line(self, data: bytes) -> None:
        """Append one line that is already JSON, without its newline."""
        self.write_bytes(data + b"\n")
        self.rows += 1

    def write_bytes(self, data: bytes) -> None:
        """Append bytes that are no row."""
        try:  # as `guard` does, without its cost for every row
            self._file.write(data)
        except OSError as error:
            raise unusable(self.path, error) from error
        self._digest.update(data)

    def publish(self) -> Published:
        """Make the file durable and visible under its name, replacing what was there."""
        with guard(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self.path)
            sync_folder(self.path.parent)
        return Published(path=self.path, rows=self.rows, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        """Remove what was written; does nothing after `publish`."""
        with contextlib.suppress(OSError):  # the buffered rest may not fit on a full disk, and need not
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def write_rows(path: Path, rows: Iterable[Row]) -> Published:
    """Publish `rows` as the file `path`, atomically. Raises StoreError; on any error the old file stays."""
    writer = RowsWriter(path)
    try:
        for row in rows:
            writer.write(row)
        return writer.publish()
    finally:
        writer.discard()


def write_json(path: Path, value: Any) -> Published:
    """Publish one JSON value (a pydantic model counts as one) as an indented file, atomically."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    writer = RowsWriter(path)
    try:
        writer.write_line(_indented(plain))
        return writer.publish()
    finally:
        writer.discard()


def write_text(path: Path, text: str) -> Published:
    """Publish a text file (its last newline is added), atomically."""
    writer = RowsWriter(path)
    try:
        writer.write_line(text.rstrip("\n").encode())
        return writer.publish()
    finally:
        writer.discard()


def write_bytes(path: Path, data: bytes) -> Published:
    """Publish a file of exactly these bytes, atomically."""
    writer = RowsWriter(path)
    try:
        writer.write_bytes(data)
        return writer.publish()
    finally:
        writer.discard()


def read_rows(path: Path, model: type[Model]) -> Iterator[Model]:
    """Stream the rows of a file. Raises StoreError naming `file:line` at the first line that is none."""
    with guard(path), open_given(path) as file:
        for number, line in enumerate(file, 1):
            try:
                row = decode(line, model)
            except ValueError as error:
                raise StoreError(f"{path}:{number}: not a {model.__name__} row: {explain(error)}") from error
            yield row


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file's bytes in hex; None where there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed writers of `path` left; only for whoever holds the lock on it."""
    with guard(path):
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)


def remove_abandoned(root: Path) -> None:
    """Remove what killed writers have left anywhere below `root`; a temporary file bears the id of its writer."""
    with guard(root):
        for folder, _, names in os.walk(root):  # which minds no folder that somebody removes meanwhile
            for name in names:
                if (found := TEMPORARY.search(name)) and not lives(int(found[1])):
                    Path(folder, name).unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link to a published file, which is replaced and never written into; a copy where there are no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as copied:
            os.fsync(copied.fileno())


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that the names created or replaced in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _indented(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2)
    except orjson.JSONEncodeError:  # a lone surrogate or an integer beyond 64 bits
        return json.dumps(value, indent=2).encode()
