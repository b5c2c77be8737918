"""Where a ledger ended, remembered outside the ledger's file, so that putting back an old copy is noticed.

Rules:
    1. An anchor only moves forward, and is written after the entry it speaks of is on the disk.
    2. An anchor is sealed with the device key; one that does not verify is evidence of tampering, not absence.
    3. Where there is no anchor, `place` says "none", and whoever shows a status must say so.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Protocol

from platformdirs import user_state_path

from privacy import system_keyring
from privacy.chain import Head, canonical, seal_head
from privacy.errors import LedgerError, LedgerRolledBackError

__all__ = ["FOLDER_VARIABLE", "Anchor", "FileAnchor", "KeyringAnchor", "NoAnchor", "open_anchor", "recall", "remember"]

_FORMAT = "anchor/1"
_SERVICE = "limbeck-anchor"
FOLDER_VARIABLE = "LIMBECK_ANCHORS"
MAX_ANCHOR_BYTES = 4096  # An anchor is about 250 bytes.


class Anchor(Protocol):
    """A place outside the ledger's file that remembers one line of text."""

    place: str
    """keyring, file or none: what a status shows."""

    def read(self) -> str | None:
        """Return what was written last, None when nothing ever was."""

    def write(self, text: str) -> None:
        """Replace what is remembered, durably."""


class NoAnchor:
    """No place to remember: rolling back the file cannot be noticed."""

    place = "none"

    def read(self) -> str | None:
        """Remember nothing."""
        return None

    def write(self, text: str) -> None:
        """Forget it."""


class FileAnchor:
    """A file outside the home, for machines without a keyring."""

    place = "file"

    def __init__(self, path: Path) -> None:
        """Use `path`; its folder is made on the first write."""
        self.path = path

    def read(self) -> str | None:
        """Return the text of the file.

        Raises:
            LedgerError: The file is there but cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return file.read(MAX_ANCHOR_BYTES).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise LedgerError(f"the rollback anchor cannot be read ({cause.strerror}); training stays off") from cause

    def write(self, text: str) -> None:
        """Write beside, flush, then swap: a crash leaves the old text or the new.

        Raises:
            LedgerError: It cannot be written; the ledger itself is already safe.
        """
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except OSError as cause:
            raise LedgerError(
                f"the rollback anchor cannot be written ({cause.strerror}); make room or fix its folder"
            ) from cause


class KeyringAnchor:
    """An entry of the system keyring, which restoring a folder does not touch."""

    place = "keyring"

    def __init__(self, name: str) -> None:
        """Use the entry `name`."""
        self.name = name

    def read(self) -> str | None:
        """Return the entry.

        Raises:
            LedgerError: The keyring does not answer.
        """
        try:
            return system_keyring.read(_SERVICE, self.name)
        except system_keyring.KeyringUnavailableError as cause:
            raise LedgerError(f"a rollback of the ledger cannot be ruled out: {cause}") from cause

    def write(self, text: str) -> None:
        """Replace the entry.

        Raises:
            LedgerError: The keyring refuses it; the ledger itself is already safe.
        """
        try:
            system_keyring.write(_SERVICE, self.name, text)
        except system_keyring.KeyringUnavailableError as cause:
            raise LedgerError(f"the rollback anchor was not moved: {cause}") from cause


def open_anchor(home: Path) -> Anchor:
    """Return the best anchor for the ledger of `home`: the system keyring, else a file in the user's state folder.

    Args:
        home: Folder of the device's state. The anchor is named after its path, so a home that was deleted and made
            again is still remembered. `LIMBECK_ANCHORS` names another folder for files; `none` does without.

    Returns:
        An anchor whose `place` is "none" when the only place would be inside the home itself.
    """
    wanted = os.environ.get(FOLDER_VARIABLE, "")
    if wanted == "none":
        return NoAnchor()
    home = Path(home).resolve()
    name = hashlib.sha256(str(home).encode()).hexdigest()[:24]
    if not wanted and system_keyring.usable():
        return KeyringAnchor(name)
    folder = Path(wanted).resolve() if wanted else user_state_path("limbeck").resolve() / "anchors"
    return NoAnchor() if folder.is_relative_to(home) else FileAnchor(folder / f"{name}.json")


def remember(anchor: Anchor, ledger_id: str, head: Head, *, key: bytes) -> None:
    """Move `anchor` to `head`. Call with the ledger locked, so that it never moves back."""
    text = {"format": _FORMAT, "ledger": ledger_id, "seq": head.seq, "hash": head.hash, "mac": seal_head(head, key=key)}
    anchor.write(canonical(text))


def recall(anchor: Anchor, *, key: bytes) -> tuple[str, Head] | None:
    """Return the ledger and the head that `anchor` remembers, None when it never remembered anything.

    Raises:
        LedgerRolledBackError: What it remembers is not this device's, so nothing can be ruled out.
    """
    text = anchor.read()
    if text is None:
        return None
    try:
        written = json.loads(text)
        head = Head(seq=written["seq"], hash=written["hash"])
        sound = written["format"] == _FORMAT and written["mac"] == seal_head(head, key=key)
        ledger_id = str(written["ledger"])
    except (ValueError, KeyError, TypeError, RecursionError):
        sound, ledger_id, head = False, "", Head()
    if not sound:
        raise LedgerRolledBackError("the rollback anchor does not verify; training stays off until it is restored")
    return ledger_id, head
