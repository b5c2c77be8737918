"""The gateway's public keys: bytes of media type application/ohttp-keys in, key configurations out, and back.

A collection with one wrong byte is discarded whole: what could be saved from it might differ from person to person, and
so tell them apart. A configuration whose key agreement this version does not know is skipped by its length, and kept as
it is so that the collection's digest stays what it was.

Source: RFC 9458, section 3.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdk.device.oblivious.suites import PUBLIC_KEY_BYTES, Algorithm
from sdk.errors import KeyConfigurationError

__all__ = ["GATEWAY_PATH", "MAX_COLLECTION_BYTES", "MEDIA_TYPE", "KeyConfiguration", "chosen", "parse", "serialise"]

MEDIA_TYPE = "application/ohttp-keys"
GATEWAY_PATH = "/.well-known/ohttp-gateway"  # RFC 9540: GET gives the keys, POST takes requests.
MAX_COLLECTION_BYTES = 64 * 1024  # Refused before parsing: a key with ten algorithms has 77 bytes.
PREFERRED_KEMS = (0x0020, 0x0010, 0x0021, 0x0011, 0x0012)  # X25519 first: fastest, and every gateway has it.
PREFERRED_ALGORITHMS = (Algorithm(1, 1), Algorithm(1, 3), Algorithm(1, 2), Algorithm(3, 2), Algorithm(3, 3))


@dataclass(frozen=True, kw_only=True)
class KeyConfiguration:
    """One public key of a gateway, and how it may be used."""

    key_id: int
    """0 to 255."""
    kem: int
    """Number of the key agreement."""
    public_key: bytes
    """As many bytes as the key agreement says."""
    algorithms: tuple[Algorithm, ...]
    """At least one."""

    @property
    def encoded(self) -> bytes:
        """Its bytes, without the length before it."""
        pairs = b"".join(one.kdf.to_bytes(2) + one.aead.to_bytes(2) for one in self.algorithms)
        return self.key_id.to_bytes(1) + self.kem.to_bytes(2) + self.public_key + len(pairs).to_bytes(2) + pairs

    @property
    def pin(self) -> str:
        """SHA-256 of its bytes, 64 hex digits: what a device can be told to trust."""
        return hashlib.sha256(self.encoded).hexdigest()

    def algorithm(self) -> Algorithm | None:
        """The one to seal with: by this version's preference, the same on every device; None where it has none."""
        known = [one for one in self.algorithms if one.supported]
        preferred = [one for one in PREFERRED_ALGORITHMS if one in known]
        return next(iter(preferred or sorted(known)), None)


def serialise(configurations: Iterable[KeyConfiguration]) -> bytes:
    """A collection: each configuration after its length in two bytes."""
    return b"".join(len(one.encoded).to_bytes(2) + one.encoded for one in configurations)


def parse(collection: bytes) -> tuple[KeyConfiguration, ...]:
    """The configurations of a collection whose key agreement this version knows, in their order.

    Raises:
        KeyConfigurationError: It is malformed, empty, too long, or holds none that is known.
    """
    if len(collection) > MAX_COLLECTION_BYTES:
        raise KeyConfigurationError(f"{len(collection)} bytes are no key collection: over {MAX_COLLECTION_BYTES}")
    found, at = list[KeyConfiguration](), 0
    while at < len(collection):
        length = int.from_bytes(collection[at : at + 2])
        one = collection[at + 2 : at + 2 + length]
        if len(collection) - at < 2 or len(one) < length:
            raise KeyConfigurationError("the gateway's keys end in the middle; fetch them again")
        if len(one) < 3:
            raise KeyConfigurationError(f"a key configuration of {len(one)} bytes is none")
        if int.from_bytes(one[1:3]) in PUBLIC_KEY_BYTES:
            found.append(_parsed(one))
        at += 2 + length
    if not found:
        raise KeyConfigurationError("the gateway offers no key that this version can use; update the app")
    return tuple(found)


def chosen(configurations: Sequence[KeyConfiguration]) -> tuple[KeyConfiguration, Algorithm]:
    """The key to seal with: the first of the most preferred kind, since a gateway lists its newest first.

    Raises:
        KeyConfigurationError: None has an algorithm that this version supports.
    """
    usable = [(one, algorithm) for one in configurations if (algorithm := one.algorithm())]
    if not usable:
        raise KeyConfigurationError("the gateway offers no cipher that this version has; update the app")
    return min(usable, key=lambda pair: PREFERRED_KEMS.index(pair[0].kem))


def _parsed(one: bytes) -> KeyConfiguration:
    kem = int.from_bytes(one[1:3])
    end = 3 + PUBLIC_KEY_BYTES[kem]
    pairs = one[end + 2 :]
    if len(one) < end + 2 or len(pairs) != int.from_bytes(one[end : end + 2]) or len(pairs) % 4 or not pairs:
        raise KeyConfigurationError("a key configuration's list of ciphers does not fit its length")
    algorithms = tuple(
        Algorithm(int.from_bytes(pairs[at : at + 2]), int.from_bytes(pairs[at + 2 : at + 4]))
        for at in range(0, len(pairs), 4)
    )
    return KeyConfiguration(key_id=one[0], kem=kem, public_key=one[3:end], algorithms=algorithms)
