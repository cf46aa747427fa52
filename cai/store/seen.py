"""Which digests have come before, for any number of rows: in a temporary SQLite database, not in memory.

Some 16 MB are held; the rest lies in a file of the temporary folder that has no name and is gone with the process.
"""

from __future__ import annotations

import sqlite3

from cai.errors import StoreError

CACHE_KB = 16_384
_SETTINGS = (
    "journal_mode = OFF",
    "synchronous = OFF",
    "locking_mode = EXCLUSIVE",
    f"cache_size = -{CACHE_KB}",
)


class Seen:
    """A set of digests that only grows. Raises StoreError where the temporary folder is full."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in _SETTINGS:
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")  # one transaction for all; nobody else reads it
        self._run = self._database.cursor().execute

    def add(self, digest: bytes) -> bool:
        """Remember a digest; True where it is new."""
        try:
            return self._run("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"prompts: the ids and texts read so far do not fit into the temporary folder ({error}); "
                "free some space, or name another folder in SQLITE_TMPDIR"
            ) from error

    def __contains__(self, digest: bytes) -> bool:
        return self._run("SELECT 1 FROM seen WHERE digest = ?", (digest,)).fetchone() is not None

    def close(self) -> None:
        """Forget everything."""
        self._database.close()
