"""A path and a key in, verified books out; and one more sealed entry at their end. The only file that speaks SQLite.

Rules:
    1. Whoever appends holds SQLite's write lock from reading the newest entry to the commit, and the commit has reached
       the disk when it returns (WAL, synchronous FULL). So two processes cannot both spend what is left.
    2. What is in memory follows what is on the disk, never the other way round: books move when a commit has returned.
    3. Every entry is checked once by every process that opens the file; what does not verify is never built upon.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from privacy import anchor as anchors
from privacy import chain
from privacy.anchor import Anchor, NoAnchor
from privacy.books import FORMAT, Books
from privacy.chain import STAYS_OFF, Entry, Head
from privacy.errors import (
    EventError,
    LedgerBusyError,
    LedgerError,
    LedgerFormatError,
    LedgerFullError,
    LedgerKeyError,
    LedgerRolledBackError,
    LedgerTamperedError,
)
from privacy.schema import SCHEMA

__all__ = ["LedgerFile"]

_WAY_ON = "if it is lost for good, limbeck privacy write-off"
_CLOCK_SLIP_SECONDS = 1.0  # Smaller steps back are clock discipline, not somebody setting the clock.
_COLUMNS = "seq, at, kind, scope, caller, receipt, body, previous, hash, mac"
_NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHM", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_TRUNCATE")
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_CONSTRAINT", "SQLITE_ERROR", "SQLITE_SCHEMA", "SQLITE_MISMATCH", "SQLITE_NOTADB")


class LedgerFile:
    """The file of one ledger, open in one process. Threads take turns."""

    def __init__(
        self, path: Path, *, key: bytes, anchor: Anchor, clock: Callable[[], datetime], busy_seconds: float
    ) -> None:
        """Open the file, beginning it where there is none, and check every entry.

        Raises:
            LedgerError: As `Ledger.open` says; the file is closed again.
        """
        self._key = key
        self._clock = clock
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._books = Books()
        self._appended: list[Entry] = []
        self._torn = False  # The books were interrupted on their way: read all entries again.
        self.anchor = anchor
        remembered = anchors.recall(anchor, key=key)  # Before the file: another process may move both meanwhile.
        with _translated():
            self._db = Database(_connect(path, busy_seconds), recursive_triggers=True)
        try:
            self._begin_or_upgrade(remembered)
            with self._transaction("deferred"):
                self._require_schema()
                self._catch_up()
            self._require_not_rolled_back(remembered)
            self.remember()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # Read

    @contextmanager
    def reading(self) -> Iterator[Books]:
        """Yield what follows from all entries on the disk; other threads wait until the books are put down.

        Raises:
            LedgerTamperedError: Something does not verify.
            LedgerBusyError, LedgerError: The file cannot be read now.
        """
        with self._lock:
            with self._transaction("deferred"):
                self._catch_up()
            yield self._books

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first, as they stand in the file."""
        with self._transaction("deferred"):
            return [_entry(row) for row in self._db.execute(f"select {_COLUMNS} from entries order by seq")]

    def verify(self) -> Head:
        """Check every entry, the tables, the head and the anchor again; return the end of the chain.

        Raises:
            LedgerTamperedError: Something does not verify.
        """
        with self._lock:
            remembered = anchors.recall(self.anchor, key=self._key)
            self._torn = True
            with self._transaction("deferred"):
                self._require_schema()
                self._catch_up()
            self._require_not_rolled_back(remembered)
            return self._books.head

    # Append

    @contextmanager
    def writing(self) -> Iterator[Books]:
        """Hold the write lock and yield the books. What is appended inside is committed at the end, or not at all."""
        with self._lock:
            self._appended.clear()
            with self._transaction("immediate"):
                self._catch_up()
                yield self._books
            for entry in self._appended:
                self._take_in(entry)

    def append(
        self, kind: str, *, body: Mapping[str, Any], scope: str = "", caller: str = "", receipt: str = "", at: str = ""
    ) -> None:
        """Write one entry and move the head. Call at most once inside `writing`; the books show it after the commit.

        Args:
            kind: As in `Entry`.
            body: What happened, as JSON-ready values.
            scope: As in `Entry`.
            caller: As in `Entry`.
            receipt: As in `Entry`.
            at: What `now` returned, when the decision already used it.
        """
        at, slip = (at, {}) if at else self.now()
        entry = chain.link(
            self._books.head,
            key=self._key,
            at=at,
            kind=kind,
            scope=scope,
            caller=caller,
            receipt=receipt,
            body={**body, **slip},
        )
        self._insert(entry)
        seal = chain.seal_head(Head(seq=entry.seq, hash=entry.hash), key=self._key)
        self._db.execute("update head set seq = ?, hash = ?, mac = ? where id = 1", [entry.seq, entry.hash, seal])
        self._appended.append(entry)

    def now(self) -> tuple[str, dict[str, float]]:
        """Return the time to write, never before the newest entry, and how far the clock was set back."""
        at, newest = _written(self._clock()), self._books.head.at
        if at >= newest:
            return at, {}
        slip = (datetime.fromisoformat(newest) - datetime.fromisoformat(at)).total_seconds()
        return newest, {"clock_behind_seconds": slip} if slip > _CLOCK_SLIP_SECONDS else {}

    def remember(self) -> None:
        """Move the anchor to the newest entry, under the write lock, so that it never moves back.

        Raises:
            LedgerError: The anchor refuses; the entries are on the disk all the same.
        """
        if isinstance(self.anchor, NoAnchor):
            return
        with self._transaction("immediate"):
            self._catch_up()
            anchors.remember(self.anchor, self._books.ledger_id, self._books.head, key=self._key)

    def _insert(self, entry: Entry) -> None:
        values = [getattr(entry, name) for name in _COLUMNS.split(", ")]
        self._db.execute(f"insert into entries ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    # Begin, upgrade

    def _begin_or_upgrade(self, remembered: tuple[str, Head] | None) -> None:
        with self._transaction("deferred"):
            version = self._version()
        if version == len(SCHEMA):
            return
        if version == 0 and remembered is not None:
            raise LedgerRolledBackError(f"the ledger is gone, but its anchor remembers it; {STAYS_OFF}; {_WAY_ON}")
        with self._transaction("immediate"):
            version = self._version()  # Another process may have been first.
            before = self._seals() if version else []
            for step in SCHEMA[version:]:
                for statement in step:
                    self._db.execute(statement)
            if version and self._seals() != before:
                raise LedgerError("the upgrade would change recorded entries; nothing was upgraded, report this")
            self._db.execute(f"pragma user_version = {len(SCHEMA)}")
            if version == 0:
                self._write_genesis()

    def _version(self) -> int:
        version = int(self._db.execute("pragma user_version").fetchone()[0])
        if not 0 <= version <= len(SCHEMA):
            raise LedgerFormatError(f"ledger schema {version} is newer than {len(SCHEMA)}; update limbeck")
        if version == 0 and _objects(self._db):
            raise LedgerFormatError("the file is a database but not a ledger; choose another path")
        return version

    def _seals(self) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._db.execute(f"select {_COLUMNS} from entries order by seq")]

    def _write_genesis(self) -> None:
        body = {"format": FORMAT, "ledger": secrets.token_hex(16), "key": chain.key_fingerprint(self._key)}
        at = _written(self._clock())
        entry = chain.link(Head(), key=self._key, at=at, kind="genesis", scope="", caller="", receipt="", body=body)
        self._insert(entry)
        seal = chain.seal_head(Head(seq=entry.seq, hash=entry.hash), key=self._key)
        self._db.execute("insert into head values (1, ?, ?, ?)", [entry.seq, entry.hash, seal])

    # Check

    def _catch_up(self) -> None:
        """Check and take in what was appended since last time. Call inside a transaction."""
        if self._torn:
            self._books, self._torn = Books(), False
        newer = f"select {_COLUMNS} from entries where seq > ? order by seq"
        for row in self._db.execute(newer, [self._books.head.seq]):
            entry = _entry(row)
            if entry.seq == 1 and entry.facts().get("key") != chain.key_fingerprint(self._key):
                raise LedgerKeyError("the ledger was written with another device's key; restore the key")
            self._take_in(entry)
        self._require_head()

    def _take_in(self, entry: Entry) -> None:
        """Check one entry and let the books follow it; when that is interrupted, they are read anew next time."""
        self._torn = True
        self._books.apply(entry, chain.check(entry, self._books.head, key=self._key))
        self._torn = False

    def _require_head(self) -> None:
        """Refuse a file that ends before the entry it says it ends with."""
        row = self._db.execute("select seq, hash, mac from head where id = 1").fetchone()
        head = self._books.head
        if row is None or tuple(row) != (head.seq, head.hash, chain.seal_head(head, key=self._key)):
            raise LedgerTamperedError(f"ledger does not verify: entries after {head.seq} are missing; {STAYS_OFF}")

    def _require_schema(self) -> None:
        """Refuse tables without the triggers that make them append-only, or with triggers of another origin."""
        found, expected = _objects(self._db), _expected_objects()
        strange = [name for name in found if name[0] == "trigger" and name not in expected]
        if strange or any(found.get(name) != sql for name, sql in expected.items()):
            raise LedgerTamperedError(f"the ledger's tables were altered; {STAYS_OFF}")

    def _require_not_rolled_back(self, remembered: tuple[str, Head] | None) -> None:
        if remembered is None:
            return
        ledger_id, head = remembered
        with self._transaction("deferred"):
            row = self._db.execute("select hash from entries where seq = ?", [head.seq]).fetchone()
        if ledger_id != self._books.ledger_id or row is None or row[0] != head.hash:
            gone = f"the ledger is older than its anchor (entry {head.seq} is gone)"
            raise LedgerRolledBackError(f"{gone}; {STAYS_OFF}; {_WAY_ON}")

    @contextmanager
    def _transaction(self, mode: str) -> Iterator[None]:
        with self._lock, _translated():
            if os.getpid() != self._process:
                raise LedgerError("the ledger was opened by another process; open it again after a fork")
            self._db.execute(f"begin {mode}")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                if self._db.conn.in_transaction:
                    self._db.execute("rollback")
                raise


def _connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        _use_write_ahead_log(connection, busy_seconds)
        for pragma in ("synchronous = full", "fullfsync = on", "checkpoint_fullfsync = on", "trusted_schema = off"):
            connection.execute(f"pragma {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_write_ahead_log(connection: sqlite3.Connection, busy_seconds: float) -> None:
    give_up = time.monotonic() + busy_seconds
    while True:  # Changing the journal does not wait for other processes by itself.
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what SQLite and the system say into one line that says what still holds."""
    try:
        yield
    except sqlite3.Error as cause:
        raise _explain(cause) from cause
    except UnicodeDecodeError as cause:  # SQLite quotes a name that it cannot read.
        raise LedgerTamperedError(f"the ledger is damaged (text that is none); {STAYS_OFF}") from cause
    except OSError as cause:
        raise LedgerError(f"the ledger cannot be opened ({cause.strerror}); check its folder") from cause


def _explain(cause: sqlite3.Error) -> LedgerError:
    name = getattr(cause, "sqlite_errorname", None) or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LedgerBusyError("another process holds the ledger; nothing was recorded, try again")
    if name.startswith(_NO_ROOM):
        return LedgerFullError("no room on the disk for the ledger; nothing was recorded, free some space")
    if name.startswith(_DAMAGED) or (not name and "decode" in str(cause)):  # Text that is none.
        return LedgerTamperedError(f"the ledger is damaged ({cause}); {STAYS_OFF}")
    return LedgerError(f"the ledger cannot be used ({cause}); nothing was recorded")


def _entry(row: Sequence[Any]) -> Entry:
    if not isinstance(row[0], int) or not all(isinstance(value, str) for value in row[1:]):
        raise LedgerTamperedError(f"ledger does not verify: entry {str(row[0])[:20]} is malformed; {STAYS_OFF}")
    seq, at, kind, scope, caller, receipt, body, previous, digest, mac = row
    return Entry(
        seq=seq,
        at=at,
        kind=kind,
        scope=scope,
        caller=caller,
        receipt=receipt,
        body=body,
        previous=previous,
        hash=digest,
        mac=mac,
    )


def _objects(db: Database) -> dict[tuple[str, str], str]:
    rows = db.execute("select type, name, sql from sqlite_master where name not like 'sqlite_%'")
    return {(kind, name): sql for kind, name, sql in rows}


@lru_cache(maxsize=1)
def _expected_objects() -> dict[tuple[str, str], str]:
    pattern = Database(memory=True)
    for step in SCHEMA:
        for statement in step:
            pattern.execute(statement)
    objects = _objects(pattern)
    pattern.close()
    return objects


def _written(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise EventError("the clock must give an aware time (with a time zone)")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
