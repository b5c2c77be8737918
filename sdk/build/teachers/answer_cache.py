"""Requests that were answered before: a digest in, the answer out. One SQLite file.

Rules: the key is a SHA-256 of address and body, so another model, prompt or setting is another request. Neither prompt
nor the endpoint's secret is stored. An answer is committed before anybody sees it: what was paid for is not lost.
"""

import hashlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdk.errors import TeacherError

__all__ = ["AnswerCache", "request_digest"]

VERSION = 1


def request_digest(url: str, body: Mapping[str, Any]) -> str:
    """SHA-256 of what is asked of whom, 64 hex digits."""
    return hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """Answers on disk; used by several threads and processes at once."""

    def __init__(self, file: Path) -> None:
        """Open it, or make it for its owner only.

        Raises:
            TeacherError: The file is something else, of a newer version, or cannot be written.
        """
        self.file = file
        self._lock = threading.Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            self._database = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._database.close)
            self._prepare()
        except (OSError, sqlite3.Error) as cause:
            raise TeacherError(f"{file} cannot be used as a cache of answers ({cause}); move it away") from cause

    def _prepare(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise TeacherError(f"{self.file} is a cache of version {version}, only {VERSION} is read; move it away")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")  # A kill loses nothing; a power cut, the last seconds.
        self._database.execute("CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        self._database.execute(f"PRAGMA user_version={VERSION}")

    def get(self, digest: str) -> dict[str, Any] | None:
        """The answer to a request, or None.

        Raises:
            TeacherError: The file was damaged meanwhile.
        """
        try:
            with self._lock:
                row = self._database.execute("SELECT answer FROM answers WHERE digest = ?", (digest,)).fetchone()
            found: dict[str, Any] | None = json.loads(row[0]) if row else None
        except (sqlite3.Error, ValueError) as cause:
            raise TeacherError(f"{self.file} cannot be read ({cause}); move it away and go on with --resume") from cause
        return found

    def put(self, digest: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer.

        Raises:
            TeacherError: It cannot be written; the endpoint should not be asked for more.
        """
        try:
            with self._lock:
                self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (digest, json.dumps(answer)))
        except sqlite3.Error as cause:
            raise TeacherError(f"{self.file} cannot be written ({cause}); free some room, then --resume") from cause
