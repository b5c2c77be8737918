"""A path in; a private, durable SQLite connection out, its failures in plain words, and no old bytes left behind.

Rules: only the owner can read the file; a committed write has reached the disk; deleted bytes are overwritten.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from personalize.errors import StoreError

__all__ = ["connect", "in_plain_words", "leave_no_old_bytes", "why", "writing"]

BUSY_SECONDS = 5.0  # Long enough for another program's write, short enough to say so instead of hanging.

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",  # Readers go on while a record is added.
    "PRAGMA synchronous = FULL",  # What `add` returned from survives a power cut.
    "PRAGMA secure_delete = ON",  # Deleted rows are overwritten with zeros, not only unlinked.
    "PRAGMA foreign_keys = ON",  # What was cached from a record goes with it.
    "PRAGMA temp_store = MEMORY",  # No copies of pages in the system's temporary folder.
)
_REASONS = {
    sqlite3.SQLITE_FULL: "there is no room on the disk; free some and try again",
    sqlite3.SQLITE_BUSY: "another program is using it; try again when that has finished",
    sqlite3.SQLITE_LOCKED: "another program is using it; try again when that has finished",
    sqlite3.SQLITE_READONLY: "it may not be written; give yourself the right to, or choose another home",
    sqlite3.SQLITE_PERM: "it may not be written; give yourself the right to, or choose another home",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; give yourself the right to, or choose another home",
    sqlite3.SQLITE_IOERR: "the disk did not read or write; check its health and free room, then try again",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; bring back a copy of it, or move it away to start empty",
    sqlite3.SQLITE_NOTADB: "it is not a store; bring back a copy of it, or move it away to start empty",
}


def connect(path: Path) -> sqlite3.Connection:
    """Open the file at `path` with the rules above; create it, readable by its owner only, if it is missing."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma).fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def why(cause: sqlite3.Error) -> str:
    """Return the reason of a failure and what to do about it."""
    return _REASONS.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF, str(cause))  # The low byte is the primary code.


@contextmanager
def in_plain_words(path: Path, verb: str) -> Iterator[None]:
    """Turn what SQLite and the system say into one StoreError: what failed, why, and what to do."""
    try:
        yield
    except sqlite3.Error as cause:
        raise StoreError(f"cannot {verb} {path}: {why(cause)}") from cause
    except OSError as cause:
        reason = cause.strerror or cause
        raise StoreError(f"cannot {verb} {path}: {reason}; check the path, your rights and the room") from cause


@contextmanager
def writing(connection: sqlite3.Connection, path: Path, verb: str) -> Iterator[None]:
    """Run a block as one transaction that is there whole, or, after an error or a crash, not at all."""
    with in_plain_words(path, verb):
        connection.execute("BEGIN IMMEDIATE")  # The write lock first: what is read stays true until the write.
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise


def leave_no_old_bytes(connection: sqlite3.Connection) -> None:
    """Rewrite the file without free space and empty its log, so that nothing of deleted rows is left in either.

    secure_delete alone is not enough: when SQLite moves rows between pages, copies stay in the gaps of the old pages.

    Raises:
        sqlite3.OperationalError: No room, or another program still reads or writes; some bytes may still be there.
    """
    connection.execute("VACUUM")
    blocked, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if blocked:
        raise sqlite3.OperationalError("another program is reading it; close that")
