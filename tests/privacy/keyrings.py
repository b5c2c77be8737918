"""A keyring in memory: what the tests put in place of the person's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import keyring
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringError

__all__ = ["MemoryKeyring", "installed", "none_installed"]


class MemoryKeyring(KeyringBackend):
    """Keeps passwords in a dictionary; can be locked."""

    priority = 5.0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False
        self.forgetful = False

    def get_password(self, service: str, username: str) -> str | None:
        self._require_unlocked()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._require_unlocked()
        if not self.forgetful:
            self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]

    def _require_unlocked(self) -> None:
        if self.locked:
            raise KeyringError("locked")


@contextmanager
def installed(backend: KeyringBackend | None = None) -> Iterator[MemoryKeyring]:
    """Use a memory keyring, or `backend`, as the system's."""
    chosen = backend or MemoryKeyring()
    before = keyring.get_keyring()
    keyring.set_keyring(chosen)
    try:
        yield chosen  # type: ignore[misc]
    finally:
        keyring.set_keyring(before)


def none_installed() -> KeyringBackend:
    """The backend of a system without a keyring."""
    return NoKeyring()  # type: ignore[no-untyped-call]
