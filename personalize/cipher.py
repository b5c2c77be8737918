"""A key, bytes and their place in; sealed bytes out, which open only with that key and at that place.

Rules: AES-256-GCM with a fresh random 96-bit nonce for each value (2**32 values a key stay far from a repeat), and one
derived key for each purpose. The place (format version, column, record id, …) is authenticated with the value, so a
sealed value cannot be moved to another row or column unseen.
Source: NIST SP 800-38D, sections 8.2.2 and 8.3; HKDF, RFC 5869.
"""

import hmac
import json
import os
import unicodedata
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from personalize.errors import SealError, StoreError

KEY_BYTES = 32  # AES-256.
NONCE_BYTES = 12  # 96 bits, the size for which GCM is defined without hashing the nonce.
TAG_BYTES = 16  # The full GCM tag.


class Cipher:
    """Seals and opens values under one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise StoreError(
                f"the store's key has {len(key)} bytes instead of {KEY_BYTES}; derive it from the device key"
            )
        self._aead = AESGCM(_derived(key, "payload"))
        self._tag_key = _derived(key, "contact tag")

    def seal(self, plain: bytes, *place: str) -> bytes:
        """Return nonce, ciphertext and tag of `plain`, bound to `place`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, _bound(place))

    def open(self, sealed: bytes, *place: str) -> bytes:
        """Return what was sealed at `place`.

        Raises:
            SealError: Another key, another place, or changed bytes.
        """
        if len(sealed) < NONCE_BYTES + TAG_BYTES:
            raise SealError(f"sealed value has {len(sealed)} bytes, fewer than {NONCE_BYTES + TAG_BYTES}")
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound(place))
        except (InvalidTag, TypeError) as cause:  # TypeError: a column edited by hand need not hold bytes.
            raise SealError("sealed value belongs to another key or place, or was changed") from cause

    def tag(self, name: str) -> bytes:
        """Return a keyed tag by which a name is found again without being stored; case and spacing do not count."""
        folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        return hmac.digest(self._tag_key, folded.encode("utf-8", "surrogatepass"), sha256)


def _derived(key: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"limbeck store {purpose}".encode()).derive(key)


def _bound(place: tuple[str, ...]) -> bytes:
    return json.dumps(place).encode()  # JSON, not a join: ("a", "bc") and ("ab", "c") are different places.
