"""Which requests are in which batch, on disk before a provider hears of it: what makes a resume pay nothing twice.

`outputs/<run>/batches/<model>.jsonl`, append-only, every line fsynced before the next step: the intent (our own
name of the batch, the journal keys of its requests, a digest of what will be sent), the provider's id once it has
accepted the batch, and how it ended. No request, no reply and no secret is in it. A torn last line is cut off; any
other damage is an error, because a skipped line could mean a second submission.

A batch stays known after its results were read: a request of it that the journal lacks (a crash came between) is
read again from the provider's results, not asked again. Keys stay in memory: about 150 bytes for each request.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from cai.errors import StoreError
from cai.store import guard, sync_folder
from cai.store.lock import lock, unlock

How = Literal["read", "failed", "lost"]


@dataclass(eq=False)
class Batch:
    """A batch: our `name` of it, when it was made (Unix seconds), its size in requests, the provider's `id`.

    `id`: None where nothing tells whether the provider has it. `read`: its results were read before.
    """

    name: str
    made: float
    size: int
    id: str | None = None
    read: bool = False


class Ledger:
    """The open ledger of one model of one run. Raises StoreError: damaged, not writable, or in use elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batches: dict[str, Batch] = {}
        self._batch_of: dict[bytes, Batch] = {}
        with guard(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock(path.with_suffix(".lock"), f"{path}: this ledger of batches")
            try:
                self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
                self._load()
                sync_folder(path.parent)
            except BaseException:
                unlock(self._lock)
                raise

    @property
    def ids(self) -> frozenset[str]:
        """The provider's ids of all batches."""
        return frozenset(batch.id for batch in self._batches.values() if batch.id is not None)

    def batch_of(self, key: str) -> Batch | None:
        """The last batch with this request, whatever has come of it; None where it has to be submitted."""
        return self._batch_of.get(bytes.fromhex(key))

    def keys_of(self, batch: Batch) -> frozenset[str]:
        """The keys of a batch that are in no later one. Looks at all keys."""
        return frozenset(key.hex() for key, found in self._batch_of.items() if found is batch)

    def intend(self, keys: Sequence[str], digest: str) -> Batch:
        """Note that a batch of these requests is about to be submitted; `digest`: of the bytes to be sent."""
        name, made = secrets.token_hex(16), time.time()
        record = {"event": "intent", "name": name, "at": made, "digest": digest, "keys": list(keys)}
        self._write(record)
        return self._intended(record)

    def accepted(self, batch: Batch, id_: str) -> None:
        """Note the id under which the provider has the batch."""
        self._write({"event": "accepted", "name": batch.name, "at": time.time(), "id": id_})
        batch.id = id_

    def ended(self, batch: Batch, how: How) -> None:
        """Note the end of a batch; the requests of one that `failed` or was `lost` are free to go into another."""
        self._write({"event": "ended", "name": batch.name, "at": time.time(), "how": how})
        self._freed(batch, how)

    def close(self) -> None:
        """Release the file and its lock."""
        os.close(self._file)
        unlock(self._lock)

    def _write(self, record: dict[str, Any]) -> None:
        line = orjson.dumps(record) + b"\n"
        with guard(self.path):
            done = 0
            while done < len(line):
                done += os.write(self._file, line[done:])
            os.fsync(self._file)

    def _load(self) -> None:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, offset)
                    break
                offset += len(line)
                try:
                    self._apply(orjson.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise StoreError(
                        f"{self.path}:{number}: not a line of a ledger of batches ({error!r}); move the file away to "
                        "go on, and the requests of its open batches are submitted and paid again"
                    ) from error

    def _apply(self, record: dict[str, Any]) -> None:
        match record["event"]:
            case "intent":
                self._intended(record)
            case "accepted":
                self._batches[record["name"]].id = record["id"]
            case "ended":
                self._freed(self._batches[record["name"]], record["how"])
            case other:
                raise ValueError(f"event {other!r}")

    def _intended(self, record: dict[str, Any]) -> Batch:
        batch = Batch(record["name"], record["at"], len(record["keys"]))
        self._batches[batch.name] = batch
        self._batch_of.update(dict.fromkeys(map(bytes.fromhex, record["keys"]), batch))
        return batch

    def _freed(self, batch: Batch, how: How) -> None:
        batch.read = how == "read"
        if not batch.read:
            for key in self.keys_of(batch):
                del self._batch_of[bytes.fromhex(key)]
