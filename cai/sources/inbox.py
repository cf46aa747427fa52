"""The inbox of a run: files with new prompts are taken once, and only added to.

What is taken lies in `inbox.jsonl` in the run's folder, a prompt source that only grows, so that ids and with them
every finished call stay. Files of the inbox are never changed, moved or deleted: `inbox.json` knows which ones have
been read, by size and time of change. A file that is being written, or cannot be read, is left for the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from pydantic import Field

from cai.config import RunConfig, SourceConfig
from cai.errors import ConfigError
from cai.rows import Drop, Message, Row
from cai.sources import read_prompts
from cai.store import RowsWriter, decode, encode, guard, read_rows, write_json

WRITING = "still being written"
SETTLE_S = 60.0  # a file that was changed less than this ago may still be


class Waiting(Row):
    """A prompt that was taken from the inbox. `file`: the name of the file that it came in."""

    id: str
    messages: tuple[Message, ...]
    tags: tuple[str, ...]
    file: str


class TakenFile(Row):
    """A file as it was when it was read. `prompts`: new ones in it; `drops`: its other rows, by reason."""

    size: int
    mtime_ns: int
    prompts: int
    drops: dict[str, int]


class Ledger(Row):
    """Every file that has been taken, by name."""

    files: dict[str, TakenFile] = Field(default_factory=dict)


class Taken(Row):
    """What one look into the inbox brought. `files`: read this time; `left`: not taken, by name, with the reason."""

    files: dict[str, TakenFile]
    left: dict[str, str]

    @property
    def prompts(self) -> int:
        """New prompts."""
        return sum(file.prompts for file in self.files.values())


def inbox_file(root: Path) -> Path:
    """Where a run keeps the prompts that it has taken."""
    return root / "inbox.jsonl"


def with_inbox(config: RunConfig) -> RunConfig:
    """The config with what was taken as its last prompt source; as it is where nothing was."""
    path = inbox_file(config.root)
    if not path.is_file() or not path.stat().st_size:
        return config
    return config.model_copy(update={"prompts": (*config.prompts, SourceConfig(path=str(path)))})


def check_inbox(inbox: SourceConfig) -> Path:
    """The folder of an inbox. Raises ConfigError where there is none."""
    if inbox.path is None:
        raise ConfigError(f"inbox: {inbox.dataset!r} is a dataset of the hub; give 'path', a folder")
    if not Path(inbox.path).is_dir():
        raise ConfigError(f"inbox: there is no folder {inbox.path}; make it, new prompt files go in there")
    return Path(inbox.path)


def take(inbox: SourceConfig, root: Path, settle_s: float = SETTLE_S) -> Taken:
    """Read the files of the folder `inbox.path` that are new or have grown, and keep the prompts that are new.

    The other fields of `inbox` (format, field, tags, limit …) hold for each file. Only for whoever holds the run's
    nightly lock. Killed anywhere, it takes the same prompts the next time, each of them once.
    """
    folder = check_inbox(inbox)
    ledger_file = root / "inbox.json"
    ledger = _ledger(ledger_file)
    fresh, left = _fresh(folder, ledger, settle_s)
    if not fresh:
        return Taken(files={}, left=left)
    with guard(root):
        root.mkdir(parents=True, exist_ok=True)
    writer, seen = RowsWriter(inbox_file(root)), set[bytes]()
    files: dict[str, TakenFile] = {}
    try:
        for row in _kept(root):
            seen.add(_digest(row))
            writer.write(row)
        for path in fresh:
            try:
                files[path.name] = _take_file(inbox, path, writer, seen)
            except ConfigError as error:
                left[path.name] = str(error).removeprefix("prompts: ")
        if any(file.prompts for file in files.values()):
            writer.publish()
    finally:
        writer.discard()
    write_json(ledger_file, Ledger(files=ledger.files | files))  # after the prompts, so that none is lost
    return Taken(files=files, left=dict(sorted(left.items())))


def _fresh(folder: Path, ledger: Ledger, settle_s: float) -> tuple[list[Path], dict[str, str]]:
    """Files to be read now, by name, and those to be left alone; hidden files and folders are neither."""
    fresh: list[Path] = []
    left: dict[str, str] = {}
    with guard(folder):
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            if (known := ledger.files.get(path.name)) is not None and _state(path) == _state_of(known):
                continue
            if abs(time.time() - path.stat().st_mtime) < settle_s:  # from a clock that is ahead: settled
                left[path.name] = WRITING
            else:
                fresh.append(path)
    return fresh, left


def _take_file(inbox: SourceConfig, path: Path, writer: RowsWriter, seen: set[bytes]) -> TakenFile:
    """Add the new prompts of one file. Raises ConfigError, with nothing added, where it cannot be read to its end."""
    own: set[bytes] = set()
    drops: Counter[str] = Counter()
    with guard(writer.path), tempfile.TemporaryFile(dir=writer.path.parent) as staged:
        before = _state(path)
        for prompt in read_prompts([inbox.model_copy(update={"path": str(path)})]):
            if isinstance(prompt, Drop):
                drops[prompt.reason] += 1
                continue
            row = Waiting(id=prompt.id, messages=prompt.messages, tags=prompt.tags, file=path.name)
            if (key := _digest(row)) in seen:
                drops["duplicate"] += 1
                continue
            own.add(key)
            staged.write(encode(row) + b"\n")
        if _state(path) != before:
            raise ConfigError(WRITING)
        for line in _lines(staged):
            writer.write_line(line)
    seen |= own
    size, mtime_ns = before
    return TakenFile(size=size, mtime_ns=mtime_ns, prompts=len(own), drops=dict(sorted(drops.items())))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    yield from (line.rstrip(b"\n") for line in file)


def _kept(root: Path) -> Iterator[Waiting]:
    if inbox_file(root).is_file():
        yield from read_rows(inbox_file(root), Waiting)


def _ledger(path: Path) -> Ledger:
    """The ledger; where it is not to be read, every file is read again, and adds only what is not there."""
    with guard(path), contextlib.suppress(FileNotFoundError, ValueError):
        return decode(path.read_bytes(), Ledger)
    return Ledger()


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:  # taken away while it was read
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    return found.st_size, found.st_mtime_ns


def _state_of(file: TakenFile) -> tuple[int, int]:
    return file.size, file.mtime_ns


def _digest(row: Waiting) -> bytes:
    turns: Sequence[list[str]] = [[turn.role, turn.content] for turn in row.messages]
    return hashlib.blake2b(json.dumps(turns).encode(), digest_size=16).digest()
