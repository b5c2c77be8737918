"""Numbers of HPKE algorithms in, the algorithms out: the one door to pyhpke.

Source: RFC 9180, section 7; the numbers are IANA's HPKE registry.
"""

from dataclasses import dataclass
from functools import lru_cache

from pyhpke import AEADId, CipherSuite, ContextInterface, KDFId, KEMId, KEMKeyPair, PyHPKEError

from sdk.errors import EncapsulationError

__all__ = ["KEMS", "PUBLIC_KEY_BYTES", "Algorithm", "Suite", "derived_pair", "suite"]

KEMS = {"p256": 0x0010, "p384": 0x0011, "p521": 0x0012, "x25519": 0x0020, "x448": 0x0021}
"""Names for people, and numbers, of the ways to agree on a key."""
PUBLIC_KEY_BYTES = {0x0010: 65, 0x0011: 97, 0x0012: 133, 0x0020: 32, 0x0021: 56}
"""Npk, which equals Nenc for all of these."""
SUPPORTED_KDFS = frozenset({1, 2, 3})  # HKDF with SHA-256, -384, -512.
SUPPORTED_AEADS = frozenset({1, 2, 3})  # AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305; not "export only".


@dataclass(frozen=True, order=True)
class Algorithm:
    """How a message is sealed once both sides share a secret."""

    kdf: int
    """Number of the key derivation function."""
    aead: int
    """Number of the cipher."""

    @property
    def supported(self) -> bool:
        """Whether this version has both."""
        return self.kdf in SUPPORTED_KDFS and self.aead in SUPPORTED_AEADS


class Suite:
    """One choice of all three algorithms."""

    def __init__(self, kem: int, algorithm: Algorithm) -> None:
        """Raises EncapsulationError where this version lacks one of them."""
        if kem not in PUBLIC_KEY_BYTES or not algorithm.supported:
            raise EncapsulationError(
                f"HPKE with KEM {kem}, KDF {algorithm.kdf}, AEAD {algorithm.aead} is not supported"
            )
        self._suite = CipherSuite.new(KEMId(kem), KDFId(algorithm.kdf), AEADId(algorithm.aead))
        self.enc_bytes = PUBLIC_KEY_BYTES[kem]

    @property
    def nonce_bytes(self) -> int:
        """max(Nn, Nk): length of a response's nonce and of its exported secret."""
        return max(self._suite.aead.nonce_size, self._suite.aead.key_size)

    def sender(
        self, public_key: bytes, info: bytes, ephemeral: KEMKeyPair | None = None
    ) -> tuple[bytes, ContextInterface]:
        """SetupBaseS: the encapsulated key, and the context. `ephemeral` is for test vectors only.

        Raises:
            EncapsulationError: The public key is none.
        """
        try:
            return self._suite.create_sender_context(
                self._suite.kem.deserialize_public_key(public_key), info, eks=ephemeral
            )
        except (PyHPKEError, ValueError) as cause:
            raise EncapsulationError("the gateway's public key is no point of its curve") from cause

    def recipient(self, enc: bytes, pair: KEMKeyPair, info: bytes) -> ContextInterface:
        """SetupBaseR.

        Raises:
            EncapsulationError: The encapsulated key is none.
        """
        try:
            return self._suite.create_recipient_context(enc, pair.private_key, info)
        except (PyHPKEError, ValueError) as cause:
            raise EncapsulationError("the encapsulated key is no point of its curve") from cause

    def seal_response(self, secret: bytes, salt: bytes, content: bytes) -> bytes:
        """Steps 3 to 6 of RFC 9458, section 4.4."""
        key, nonce = self._response_key(secret, salt)
        return self._suite.aead.import_key(key).seal(content, nonce)

    def open_response(self, secret: bytes, salt: bytes, sealed: bytes) -> bytes:
        """The same backwards.

        Raises:
            EncapsulationError: Sealed with another key, or changed.
        """
        key, nonce = self._response_key(secret, salt)
        try:
            return self._suite.aead.import_key(key).open(sealed, nonce)
        except Exception as cause:  # The library raises what its cipher raises.
            raise EncapsulationError(
                "the answer was not sealed for this question, or was changed on its way"
            ) from cause

    def _response_key(self, secret: bytes, salt: bytes) -> tuple[bytes, bytes]:
        kdf, aead = self._suite.kdf, self._suite.aead
        prk = kdf.extract(salt, secret)
        return kdf.expand(prk, b"key", aead.key_size), kdf.expand(prk, b"nonce", aead.nonce_size)


@lru_cache(maxsize=64)
def suite(kem: int, algorithm: Algorithm) -> Suite:
    """The suite of these numbers, made once; errors as `Suite`."""
    return Suite(kem, algorithm)


def derived_pair(kem: int, seed: bytes) -> KEMKeyPair:
    """The key pair of a seed of at least as many random bytes as the private key has (DeriveKeyPair, RFC 9180)."""
    return CipherSuite.new(KEMId(kem), KDFId.HKDF_SHA256, AEADId.AES128_GCM).kem.derive_key_pair(seed)
