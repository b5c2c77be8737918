"""A gateway's private keys on its disk: made, rotated with overlap, read by the owner only.

A new key is listed first and used from then on by whoever fetches the list; the ones before still open requests until
their time is up, because devices keep keys for a day and pins come with updates.
"""

import json
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from privacy.whole_file import replace_whole
from sdk.device.oblivious.encapsulation import GatewayKey
from sdk.device.oblivious.key_configurations import KeyConfiguration, serialise
from sdk.device.oblivious.suites import KEMS, Algorithm, derived_pair
from sdk.errors import KeyConfigurationError

__all__ = ["FORMAT", "KeyFile", "StoredKey", "read_keys", "rotate"]

FORMAT = "oblivious-keys/1"
SEED_BYTES = 66  # As many as the longest private key has (P-521).
OFFERED = (Algorithm(1, 1), Algorithm(1, 3))  # HKDF-SHA256 with AES-128-GCM, or ChaCha20-Poly1305 for small devices.


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """One key of a file."""

    key: GatewayKey
    seed: bytes
    made: datetime
    until: datetime | None
    """When it stops to open requests; None: not decided yet."""

    def opens_at(self, now: datetime) -> bool:
        """Whether it still opens requests."""
        return self.until is None or now < self.until


def rotate(path: Path, *, kem: str = "x25519", overlap: timedelta, now: datetime) -> tuple[StoredKey, ...]:
    """Make a new key the first of a file; those before go on for `overlap`, those past it are dropped.

    Args:
        path: The file; made with mode 0600 where there is none.
        kem: A name of `suites.KEMS`.
        overlap: How long the keys before still open requests.
        now: The time.

    Raises:
        KeyConfigurationError: The file cannot be read or written; it stays as it was.
    """
    before = read_keys(path) if path.exists() else ()
    kept = [_retiring(one, now + overlap) for one in before if one.opens_at(now)]
    taken = {one.key.configuration.key_id for one in kept}
    last = before[0].key.configuration.key_id if before else secrets.randbelow(256)
    free = [number for step in range(1, 257) if (number := (last + step) % 256) not in taken]
    if not free:
        raise KeyConfigurationError(f"{path} holds 256 keys that still open requests; rotate less often")
    keys = (_made(free[0], kem, secrets.token_bytes(SEED_BYTES), now, None), *kept)
    content = {"format": FORMAT, "keys": [_stored(one) for one in keys]}
    try:
        replace_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as cause:
        raise KeyConfigurationError(f"cannot write {path} ({cause.strerror}); it is as it was") from cause
    return keys


def read_keys(path: Path) -> tuple[StoredKey, ...]:
    """The keys of a file, newest first.

    Raises:
        KeyConfigurationError: Missing, malformed, empty, or readable by others than its owner.
    """
    try:
        with path.open("rb") as file:
            if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise KeyConfigurationError(f"others than its owner may read {path}; chmod 600 it, and rotate its keys")
            content = file.read(1024 * 1024)
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise KeyConfigurationError(f"{path} has the format {found['format']!r:.40}, this version reads {FORMAT}")
        keys = tuple(_read(one) for one in found["keys"])
    except OSError as cause:
        raise KeyConfigurationError(f"the keys in {path} cannot be read ({cause.strerror})") from cause
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as cause:
        raise KeyConfigurationError(
            f"{path} is no file of gateway keys; make one with `limbeck oblivious keys`"
        ) from cause
    if not keys:
        raise KeyConfigurationError(f"{path} holds no key; make one with `limbeck oblivious keys {path} --rotate`")
    return keys


class KeyFile:
    """The keys of a running gateway: read again whenever their file changes."""

    def __init__(self, path: Path) -> None:
        """Read them; errors as `read_keys`."""
        self._path, self._keys, self._stamp = path, read_keys(path), self._state(path)

    def opening(self, now: datetime) -> dict[int, GatewayKey]:
        """The keys that open requests now, by id."""
        return {one.key.configuration.key_id: one.key for one in reversed(self._current()) if one.opens_at(now)}

    def collection(self, now: datetime) -> bytes:
        """What is published: the public halves, newest first."""
        return serialise(one.key.configuration for one in self._current() if one.opens_at(now))

    def _current(self) -> tuple[StoredKey, ...]:
        stamp = self._state(self._path)
        if stamp != self._stamp:
            with suppress(KeyConfigurationError):  # Half-made by hand, or gone: what was read before goes on.
                self._keys, self._stamp = read_keys(self._path), stamp
        return self._keys

    @staticmethod
    def _state(path: Path) -> tuple[int, int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _retiring(one: StoredKey, until: datetime) -> StoredKey:
    until = min(until, one.until or until)
    return StoredKey(key=one.key, seed=one.seed, made=one.made, until=until)


def _made(
    key_id: int,
    kem: str,
    seed: bytes,
    made: datetime,
    until: datetime | None,
    algorithms: tuple[Algorithm, ...] = OFFERED,
) -> StoredKey:
    pair = derived_pair(KEMS[kem], seed)
    public_key = pair.public_key.to_public_bytes()
    configuration = KeyConfiguration(key_id=key_id, kem=KEMS[kem], public_key=public_key, algorithms=algorithms)
    return StoredKey(key=GatewayKey(configuration=configuration, pair=pair), seed=seed, made=made, until=until)


def _stored(one: StoredKey) -> dict[str, Any]:
    configuration = one.key.configuration
    return {
        "id": configuration.key_id,
        "kem": next(name for name, number in KEMS.items() if number == configuration.kem),
        "seed": one.seed.hex(),
        "algorithms": [[algorithm.kdf, algorithm.aead] for algorithm in configuration.algorithms],
        "made": one.made.isoformat(),
        "until": one.until.isoformat() if one.until else None,
    }


def _read(found: dict[str, Any]) -> StoredKey:
    algorithms = tuple(Algorithm(int(kdf), int(aead)) for kdf, aead in found["algorithms"])
    seed, key_id = bytes.fromhex(found["seed"]), int(found["id"])
    if not (0 <= key_id <= 255 and len(seed) == SEED_BYTES and algorithms and all(one.supported for one in algorithms)):
        raise ValueError("id, seed or algorithms")
    made, until = (
        datetime.fromisoformat(text).astimezone(UTC) if text else None for text in (found["made"], found["until"])
    )
    if made is None:
        raise ValueError("made")
    return _made(key_id, found["kem"], seed, made, until, algorithms)
