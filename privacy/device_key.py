"""A home in, the device's secret out: 32 random bytes, in the system keyring or in a file that only the user can read.

Rules:
    1. The key is drawn once and never changed; what was sealed with it can be read only with it.
    2. Where it lives is decided once, when it is drawn. A home whose key is in the keyring never silently gets another.
    3. Nothing prints the key. What is used are derivations for a purpose, so no two uses share a key.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import stat
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy import system_keyring
from privacy.errors import DeviceKeyError

__all__ = ["KEY_BYTES", "DeviceKey"]

KEY_BYTES = 32
_FILE, _REFERENCE = "device.key", "device.keyring"
_FORMAT = "device_key/1"
_SERVICE = "limbeck-device-key"


class DeviceKey:
    """The device's secret. Sealed in memory: it has no readable form."""

    def __init__(self, secret: bytes, *, place: str) -> None:
        """Use `DeviceKey.open` instead."""
        self._secret = secret
        self.place = place  # keyring or file: what a status shows.

    def __repr__(self) -> str:
        """Show where the key is, never what it is."""
        return f"DeviceKey(place={self.place!r})"

    @classmethod
    def open(cls, home: Path) -> DeviceKey:
        """Return the key of `home`; draw one on first use.

        Args:
            home: Folder of the device's state; made where there is none. `LIMBECK_KEYRING=0` keeps the keyring out.

        Raises:
            DeviceKeyError: The key is damaged, readable by others, or its keyring does not answer. Nothing was changed.
        """
        home = Path(home)
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            for _ in range(2):  # The second look is for the loser of a race to draw the first key.
                if (home / _REFERENCE).exists():
                    return cls(_from_keyring(home / _REFERENCE), place="keyring")
                if (home / _FILE).exists():
                    return cls(_from_file(home / _FILE), place="file")
                _draw(home)
        except OSError as cause:
            raise DeviceKeyError(
                f"the device key cannot be opened ({cause.strerror}); check the home folder"
            ) from cause
        raise DeviceKeyError("the device key was not written; check the home folder")

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes for `purpose`, such as "ledger", that tell nothing about the key or other purposes.

        Source: HKDF-SHA256, RFC 5869.
        """
        if not purpose:
            raise DeviceKeyError("a derived key needs a purpose")
        kdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=f"limbeck/1 {purpose}".encode())
        return kdf.derive(self._secret)


def _draw(home: Path) -> None:
    """Draw a key and put it where it will stay. When two processes do so at once, the first one's key stays."""
    secret = secrets.token_bytes(KEY_BYTES)
    name = secrets.token_hex(8)
    if system_keyring.usable() and _put_in_keyring(name, secret):
        _create(home / _REFERENCE, json.dumps({"format": _FORMAT, "keyring": name}).encode())
    else:
        _create(home / _FILE, secret)


def _create(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, and never replaces another."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _from_file(path: Path) -> bytes:
    if os.name == "posix":
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise DeviceKeyError(f"device.key is readable by others (mode {mode:04o}); run chmod 600 on it")
    with path.open("rb") as file:
        secret = file.read(KEY_BYTES + 1)
    if len(secret) != KEY_BYTES:
        raise DeviceKeyError(f"device.key is damaged ({len(secret)} bytes, not {KEY_BYTES}); restore it from a backup")
    return secret


def _from_keyring(reference: Path) -> bytes:
    if os.environ.get(system_keyring.SWITCH) == "0":
        raise DeviceKeyError("this home keeps its key in the system keyring; unset LIMBECK_KEYRING")
    try:
        written = json.loads(reference.read_bytes()[:1024])
        name = str(written["keyring"]) if written["format"] == _FORMAT else ""
        secret = base64.b64decode(system_keyring.read(_SERVICE, name) or "", validate=True)
    except system_keyring.KeyringUnavailableError as cause:
        raise DeviceKeyError(str(cause)) from cause
    except (ValueError, KeyError, TypeError) as cause:
        raise DeviceKeyError("device.keyring is damaged; restore it from a backup") from cause
    if len(secret) != KEY_BYTES:
        raise DeviceKeyError("the device key is not in the system keyring; restore it from a backup")
    return secret


def _put_in_keyring(name: str, secret: bytes) -> bool:
    """Store `secret` and read it back; False where the keyring does not keep it."""
    text = base64.b64encode(secret).decode()
    try:
        system_keyring.write(_SERVICE, name, text)
        return system_keyring.read(_SERVICE, name) == text
    except system_keyring.KeyringUnavailableError:
        return False
