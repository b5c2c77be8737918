"""The system keyring as a door: a name in, a short secret text out; and whether there is a real one at all."""

from __future__ import annotations

import os

from privacy.errors import PrivacyError

__all__ = ["SWITCH", "KeyringUnavailableError", "read", "usable", "write"]

SWITCH = "LIMBECK_KEYRING"
"""Environment variable; 0 keeps the keyring out."""
_REAL_BACKEND = 1.0  # Priorities: 0 is none, 0.5 a plain text file; keyrings that protect anything are 1 and above.


class KeyringUnavailableError(PrivacyError):
    """The system keyring does not answer. Nothing was changed."""


def usable() -> bool:
    """Tell whether the system has a real keyring and nobody switched it off."""
    if os.environ.get(SWITCH) == "0":
        return False
    try:
        import keyring

        return bool(keyring.get_keyring().priority >= _REAL_BACKEND)
    except Exception:  # Backends raise their own kinds while they look for a bus or a library: then there is none.
        return False


def read(service: str, name: str) -> str | None:
    """Return the text under `name`, None when there is none.

    Raises:
        KeyringUnavailableError: The keyring is locked or gone.
    """
    import keyring

    try:
        return keyring.get_password(service, name)
    except Exception as cause:  # Whatever the backend raises; the caller can only wait for the keyring.
        raise KeyringUnavailableError("the system keyring does not answer; unlock it and try again") from cause


def write(service: str, name: str, text: str) -> None:
    """Store `text` under `name`.

    Raises:
        KeyringUnavailableError: The keyring refuses it.
    """
    import keyring

    try:
        keyring.set_password(service, name, text)
    except Exception as cause:  # As above.
        raise KeyringUnavailableError("the system keyring refuses to store; unlock it and try again") from cause
