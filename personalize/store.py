"""Experiences in; the same out in time order, from an encrypted file that can really forget.

Rules:
- Prompt, answer, signal, consent and contact stand in one sealed payload (see cipher.py); so do cached values.
- In the clear stand, for each record: a random id, the block label, the time in whole seconds, the run that trained
  it, when it was stored, a keyed tag of the contact (equal contacts have equal tags), the size in steps of 256 bytes,
  the names and sizes of its cached values. Id, block and time are authenticated with the payload: edited, it does not
  open. Keep secrets out of block labels, run ids and cache names.
- A write is one transaction: it is there whole and synced, or not at all.
- Forgetting deletes the records and all that was cached from them, then rewrites the file and empties its log, because
  copies of deleted rows stay in both. What a crash leaves undone of that is done at the next opening.
- What was spent on a forgotten record stays in the ledger, which is another file.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlite_utils import Database

from personalize.cipher import Cipher
from personalize.database import connect, in_plain_words, leave_no_old_bytes, why, writing
from personalize.errors import SealError, StoreError
from personalize.experience import Consent, Experience, Signal

__all__ = ["Forgotten", "Record", "Store"]

FORMAT = "experience/1"
SIZE_STEP_BYTES = 256  # Payloads are padded to a multiple of this, so that sizes tell little about the texts.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS store (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    """CREATE TABLE IF NOT EXISTS experience (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    block TEXT NOT NULL,
    at INTEGER NOT NULL,
    trained_run TEXT,
    created INTEGER NOT NULL,
    contact_tag BLOB,
    payload BLOB NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS cache (
    record_id TEXT NOT NULL REFERENCES experience (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (record_id, kind)
)""",
)
_TRAINED = {None: "1", True: "trained_run IS NOT NULL", False: "trained_run IS NULL"}
_AMONG = "id IN (SELECT value FROM json_each(?))"  # One bound value, however many ids there are.


@dataclass(frozen=True, kw_only=True)
class Record:
    """One experience as the store holds it."""

    id: str
    """Random, 32 hexadecimal digits; says nothing about the text."""
    block: str
    """Label of the wall-clock block (night) it belongs to."""
    trained_run: str | None
    """Id of the run that learned from it, or None."""
    experience: Experience
    """What the user taught us, with the same id."""


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What a deletion removed."""

    count: int
    """Number of records removed."""
    trained_blocks: tuple[str, ...]
    """Blocks of removed records that an adapter has already learned from (it keeps a private trace of them), sorted."""
    trained_runs: tuple[str, ...] = ()
    """Ids of the runs that learned from removed records, sorted."""

    @classmethod
    def of(cls, count: int, trained: Iterable[tuple[str, str]]) -> Self:
        """From the number of removed records and the (block, run) of those that were trained."""
        pairs = list(trained)
        blocks, runs = ({pair[place] for pair in pairs} for place in (0, 1))
        return cls(count=count, trained_blocks=tuple(sorted(blocks)), trained_runs=tuple(sorted(runs)))


class Store:
    """A person's experiences on disk, encrypted."""

    def __init__(self, path: Path, connection: sqlite3.Connection, cipher: Cipher) -> None:
        self.path = path
        self._connection = connection
        self._database = Database(connection, execute_plugins=False)
        self._cipher = cipher

    @classmethod
    def open(cls, path: Path, *, key: bytes) -> Self:
        """Open the store at `path`, or create an empty one that only its owner can read.

        Raises:
            StoreError: Another key, a newer format, a damaged file, or no place to write; the file is left as it is.
        """
        cipher = Cipher(key)
        with in_plain_words(path, "open"):
            connection = connect(path)
            try:
                store = cls(path, connection, cipher)
                store._prepare()
            except BaseException:
                connection.close()
                raise
        return store

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def add(self, experience: Experience, *, block: str) -> str:
        """Store one experience in `block` and return its new id; equal texts are separate records."""
        return self.add_all([(experience, block)])[0]

    def add_all(self, experiences: Iterable[tuple[Experience, str]]) -> list[str]:
        """Store experiences with their blocks, all or none, and return their new ids in the same order.

        Raises:
            StoreError: No room or no right to write; nothing was added.
        """
        rows = [self._row(experience, block) for experience, block in experiences]
        with writing(self._connection, self.path, "add to"):
            self._database.table("experience").insert_all(rows)
        return [str(row["id"]) for row in rows]

    def all(self) -> Iterator[Record]:
        """Yield every record, oldest first."""
        return self._records("1")

    def fresh(self) -> Iterator[Record]:
        """Yield the records to learn from next, oldest first: not trained yet, consent given, answer not rejected."""
        return (record for record in self._records("trained_run IS NULL") if record.experience.learnable)

    def count(self, *, trained: bool | None = None) -> int:
        """Return how many records there are: all of them, or only those that were trained, or were not."""
        with in_plain_words(self.path, "read"):
            return int(self._database.table("experience").count_where(_TRAINED[trained]))

    def contacts(self) -> list[str]:
        """Return who else is in what is remembered, each once, as they were first written; sorted."""
        first = "SELECT MIN(number) FROM experience WHERE contact_tag IS NOT NULL GROUP BY contact_tag"
        return sorted(str(record.experience.contact) for record in self._records(f"number IN ({first})"))

    def blocks(self, trained: bool | None = None) -> list[str]:
        """Return the labels of blocks, earliest first: all, or those with a trained record, or those without one.

        A block whose records are all forgotten is not here any more; the ledger still knows it.
        """
        chosen = {None: "", True: "HAVING COUNT(trained_run) > 0", False: "HAVING COUNT(trained_run) = 0"}[trained]
        with in_plain_words(self.path, "read"):
            query = f"SELECT block FROM experience GROUP BY block {chosen} ORDER BY MIN(at), block"
            return [str(block) for (block,) in self._database.execute(query).fetchall()]

    def mark_trained(self, ids: Iterable[str], run_id: str) -> int:
        """Note that run `run_id` has learned from these records; return how many there still were.

        Raises:
            StoreError: One of them was trained by another run, so it would be charged twice; nothing was noted.
        """
        chosen = json.dumps(list(ids))
        with writing(self._connection, self.path, "update"):
            query = f"SELECT COUNT(*), MIN(trained_run) FROM experience WHERE {_AMONG} AND trained_run <> ?"
            count, other = self._database.execute(query, [chosen, run_id]).fetchone()
            if count:
                raise StoreError(f"{count} records were trained before, by run {other}; learn from fresh records only")
            update = f"UPDATE experience SET trained_run = ? WHERE {_AMONG}"
            return int(self._database.execute(update, [run_id, chosen]).rowcount)

    def unmark_trained(self, run_ids: Iterable[str]) -> int:
        """Make the records of these runs fresh again, because no adapter has them any more; return how many there are.

        What the runs cost stays spent: whoever learns from these records once more is charged once more.
        """
        with writing(self._connection, self.path, "update"):
            update = "UPDATE experience SET trained_run = NULL WHERE trained_run IN (SELECT value FROM json_each(?))"
            return int(self._database.execute(update, [json.dumps(list(run_ids))]).rowcount)

    def forget(
        self,
        *,
        ids: Iterable[str] | None = None,
        before: datetime | None = None,
        contact: str | None = None,
        everything: bool = False,
    ) -> Forgotten:
        """Remove records and all that was cached from them, then make their bytes gone from the file and its log.

        Exactly one of the four says which: by id, older than a time, with one contact, or everything.

        Raises:
            StoreError: Not exactly one was given, or the file cannot be written (nothing removed); or the records are
                removed but their sealed bytes stay on disk until the next opening, and the line says why.
        """
        return self._forget(*self._which(ids, before, contact, everything))

    def trained_of(
        self,
        *,
        ids: Iterable[str] | None = None,
        before: datetime | None = None,
        contact: str | None = None,
        everything: bool = False,
    ) -> list[tuple[str, str]]:
        """Return (block, run) of all that runs learned from records, each pair once; which, as `forget` is told."""
        condition, values = self._which(ids, before, contact, everything)
        with in_plain_words(self.path, "read"):
            query = f"SELECT DISTINCT block, trained_run FROM experience WHERE {condition}"
            rows = self._database.execute(query, values).fetchall()
        return sorted((str(block), str(run)) for block, run in rows if run is not None)

    def _which(
        self, ids: Iterable[str] | None, before: datetime | None, contact: str | None, everything: bool
    ) -> tuple[str, list[str | int | bytes]]:
        """The condition of what was asked for, and its values."""
        if (ids is not None) + (before is not None) + (contact is not None) + everything != 1:
            raise StoreError("say what to forget with exactly one of ids, before, contact or everything")
        if ids is not None:
            return _AMONG, [json.dumps(list(ids))]
        if before is not None:
            if before.utcoffset() is None:
                raise StoreError(f"the time {before.isoformat()} has no zone; give one, such as +00:00")
            return "at < ?", [_seconds(before)]
        if contact is not None:
            return "contact_tag = ?", [self._cipher.tag(contact)]
        return "1", []

    def expire(self, before: datetime) -> Forgotten:
        """Forget the records older than `before`, for a retention period."""
        return self.forget(before=before)

    def put_cache(self, record_id: str, kind: str, value: bytes) -> None:
        """Keep `value`, computed from a record, sealed and only as long as the record.

        Raises:
            StoreError: There is no such record (it may have been forgotten), or no room; nothing was kept.
        """
        sealed = self._cipher.seal(value, FORMAT, "cache.payload", record_id, kind)
        with writing(self._connection, self.path, "add to"):
            if not self._database.table("experience").count_where("id = ?", [record_id]):
                raise StoreError(f"there is no record {record_id}, it may have been forgotten; keep nothing from it")
            row = {"record_id": record_id, "kind": kind, "payload": sealed}
            self._database.table("cache").insert(row, replace=True)

    def put_caches(self, kind: str, values: Mapping[str, bytes], *, max_bytes: int) -> None:
        """Keep a value for each of several records, in one transaction; those that were forgotten get none.

        Args:
            kind: As `put_cache`.
            values: Record id to value.
            max_bytes: Of all cached values together; the oldest go where they would be more.

        Raises:
            StoreError: No room; nothing was kept.
        """
        rows = [
            (record_id, kind, self._cipher.seal(value, FORMAT, "cache.payload", record_id, kind), record_id)
            for record_id, value in values.items()
        ]
        put = (
            "INSERT OR REPLACE INTO cache (record_id, kind, payload) "
            "SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM experience WHERE id = ?)"
        )
        oldest = (
            "DELETE FROM cache WHERE rowid IN (SELECT rowid FROM (SELECT rowid, "
            "SUM(LENGTH(payload)) OVER (ORDER BY rowid DESC) AS bytes FROM cache) WHERE bytes > ?)"
        )
        with writing(self._connection, self.path, "add to"):
            for row in rows:
                self._database.execute(put, row)
            self._database.execute(oldest, [max_bytes])

    def get_cache(self, record_id: str, kind: str) -> bytes | None:
        """Return what `put_cache` kept, or None if there is nothing or it does not open: it can be computed again."""
        with in_plain_words(self.path, "read"):
            query = "SELECT payload FROM cache WHERE record_id = ? AND kind = ?"
            row = self._database.execute(query, [record_id, kind]).fetchone()
        try:
            return self._cipher.open(row[0], FORMAT, "cache.payload", record_id, kind) if row else None
        except SealError:
            return None

    def _prepare(self) -> None:
        """Create the tables of a new file, prove that the key is the right one, and finish an interrupted erasure."""
        if not self._database.table("store").exists():
            with writing(self._connection, self.path, "create"):
                for statement in _SCHEMA:
                    self._database.execute(statement)
                if not self._database.table("store").count:  # Else another process was here first.
                    check = self._cipher.seal(b"", FORMAT, "store.key_check")
                    self._database.table("store").insert({"name": "format", "value": FORMAT})
                    self._database.table("store").insert({"name": "key_check", "value": check})
        values = dict(self._database.execute("SELECT name, value FROM store").fetchall())
        if values.get("format") != FORMAT:
            advice = f"this version reads {FORMAT!r}; use the version that wrote it"
            raise StoreError(f"{self.path} has format {values.get('format')!r} and {advice}")
        try:
            self._cipher.open(values.get("key_check", b""), FORMAT, "store.key_check")
        except SealError as cause:
            advice = "bring back the key it was written with, or move the file away to start empty"
            raise StoreError(f"the key does not open {self.path}; {advice}") from cause
        if "erase_pending" in values:
            with suppress(sqlite3.Error):  # Still pending then, and tried again at the next opening.
                self._erase()

    def _forget(self, condition: str, values: Sequence[str | int | bytes] = ()) -> Forgotten:
        with writing(self._connection, self.path, "forget from"):
            delete = f"DELETE FROM experience WHERE {condition} RETURNING block, trained_run"
            gone = self._database.execute(delete, values).fetchall()
            if gone:
                self._database.table("store").insert({"name": "erase_pending", "value": len(gone)}, replace=True)
            pending = self._database.table("store").count_where("name = 'erase_pending'")  # Also from an earlier try.
        if pending:
            try:
                self._erase()
            except sqlite3.Error as cause:
                what = f"{len(gone)} records are forgotten, but their sealed bytes are not yet gone from {self.path}"
                raise StoreError(f"{what}: {why(cause)}; then run this again") from cause
        return Forgotten.of(len(gone), [(str(block), str(run)) for block, run in gone if run is not None])

    def _erase(self) -> None:
        leave_no_old_bytes(self._connection)
        self._database.execute("DELETE FROM store WHERE name = 'erase_pending'")

    def _row(self, experience: Experience, block: str) -> dict[str, str | int | bytes | None]:
        record_id, at = uuid.uuid4().hex, _seconds(experience.at)
        fields = {
            "prompt": experience.prompt,
            "answer": experience.answer,
            "signal": experience.signal.value,
            "consent": experience.consent.value,
            "contact": experience.contact,
            **({} if experience.part_of is None else {"part_of": experience.part_of}),
        }
        payload = json.dumps(fields, ensure_ascii=False).encode()
        padded = payload.ljust(-(-len(payload) // SIZE_STEP_BYTES) * SIZE_STEP_BYTES)  # JSON ignores spaces at its end.
        return {
            "id": record_id,
            "block": block,
            "at": at,
            "trained_run": None,
            "created": int(time.time()),
            "contact_tag": None if experience.contact is None else self._cipher.tag(experience.contact),
            "payload": self._cipher.seal(padded, *_place(record_id, block, at)),
        }

    def _records(self, condition: str) -> Iterator[Record]:
        # All rows are fetched first: a reader left open would keep `forget` from emptying the log.
        with in_plain_words(self.path, "read"):
            query = f"SELECT id, block, at, trained_run, payload FROM experience WHERE {condition} ORDER BY at, number"
            rows = self._database.execute(query).fetchall()
        return (self._record(*row) for row in rows)

    def _record(self, record_id: str, block: str, at: int, trained_run: str | None, payload: bytes) -> Record:
        try:
            fields = json.loads(self._cipher.open(payload, *_place(record_id, str(block), at)))
        except SealError as cause:
            what = f"record {record_id} was changed on disk and does not open"
            raise StoreError(f"{what}; bring back a copy of {self.path}, or forget the record by its id") from cause
        experience = Experience(
            prompt=fields["prompt"],
            answer=fields["answer"],
            signal=Signal(fields["signal"]),
            consent=Consent(fields["consent"]),
            contact=fields["contact"],
            part_of=fields.get("part_of"),
            at=EPOCH + timedelta(seconds=at),
            id=record_id,
        )
        return Record(id=record_id, block=block, trained_run=trained_run, experience=experience)


def _seconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(seconds=1)  # Exact for every year; a float of seconds is not.


def _place(record_id: str, block: str, at: int) -> tuple[str, ...]:
    return FORMAT, "experience.payload", record_id, block, str(at)
