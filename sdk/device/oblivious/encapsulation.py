"""A binary HTTP request in, one that only the gateway opens out; an answer in, one that only its asker opens out.

Every seal uses a fresh key of its own: two equal questions are two unlike messages.

Source: RFC 9458, section 4; checked against its Appendix A byte for byte.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from pyhpke import ContextInterface, KEMKeyPair

from sdk.device.oblivious.key_configurations import KeyConfiguration
from sdk.device.oblivious.suites import Algorithm, Suite, suite
from sdk.errors import EncapsulationError

__all__ = ["REQUEST_TYPE", "RESPONSE_TYPE", "Asked", "GatewayKey", "Sealed", "open_request", "seal_request"]

REQUEST_TYPE = "message/ohttp-req"
RESPONSE_TYPE = "message/ohttp-res"
HEADER_BYTES = 7  # Key id, KEM, KDF, AEAD.


class Sealed:
    """A sealed request, and what opens its answer."""

    def __init__(self, request: bytes, enc: bytes, context: ContextInterface, used: Suite) -> None:
        """Made by `seal_request`."""
        self.request = request
        """What is sent."""
        self._enc, self._context, self._suite = enc, context, used

    def open(self, response: bytes) -> bytes:
        """The binary HTTP response inside an answer.

        Raises:
            EncapsulationError: It answers something else, or was changed on its way.
        """
        size = self._suite.nonce_bytes
        if len(response) < size:
            raise EncapsulationError(f"an answer of {len(response)} bytes is too short to be sealed")
        secret = self._context.export(b"message/bhttp response", size)
        return self._suite.open_response(secret, self._enc + response[:size], response[size:])


class Asked:
    """An opened request, and what seals its answer."""

    def __init__(self, content: bytes, enc: bytes, context: ContextInterface, used: Suite) -> None:
        """Made by `open_request`."""
        self.content = content
        """The binary HTTP request."""
        self.enc = enc
        """The encapsulated key: no two requests have the same, so it names a request (RFC 9458, section 6.5)."""
        self._context, self._suite = context, used

    def seal(self, response: bytes, *, nonce: bytes | None = None) -> bytes:
        """Seal a binary HTTP response for who asked; `nonce` is for test vectors only."""
        size = self._suite.nonce_bytes
        nonce = secrets.token_bytes(size) if nonce is None else nonce
        secret = self._context.export(b"message/bhttp response", size)
        return nonce + self._suite.seal_response(secret, self.enc + nonce, response)


@dataclass(frozen=True, kw_only=True)
class GatewayKey:
    """A key configuration with its private half."""

    configuration: KeyConfiguration
    pair: KEMKeyPair


def seal_request(
    configuration: KeyConfiguration, algorithm: Algorithm, content: bytes, *, ephemeral: KEMKeyPair | None = None
) -> Sealed:
    """Seal a binary HTTP request for a gateway.

    Args:
        configuration: The gateway's key.
        algorithm: One of its algorithms.
        content: The request; its length can be seen from outside, so pad it first.
        ephemeral: For test vectors only; None takes a fresh key.

    Raises:
        EncapsulationError: The public key is none, or this version lacks the algorithm.
    """
    used = suite(configuration.kem, algorithm)
    header = _header(configuration.key_id, configuration.kem, algorithm)
    enc, context = used.sender(configuration.public_key, _info(header), ephemeral)
    return Sealed(header + enc + context.seal(content), enc, context, used)


def open_request(request: bytes, keys: Mapping[int, GatewayKey]) -> Asked:
    """Open a sealed request.

    Args:
        request: What arrived.
        keys: The gateway's keys by their ids.

    Raises:
        EncapsulationError: Unknown key, algorithms that were not offered, or not sealed for it; one text for all of
            them, which tells a prober nothing.
    """
    key_id, kem, kdf, aead = request[:1], request[1:3], request[3:5], request[5:7]
    key = keys.get(int.from_bytes(key_id)) if len(request) > HEADER_BYTES else None
    algorithm = Algorithm(int.from_bytes(kdf), int.from_bytes(aead))
    if key is None or key.configuration.kem != int.from_bytes(kem) or algorithm not in key.configuration.algorithms:
        raise _not_for_us()
    try:
        used = suite(key.configuration.kem, algorithm)
        enc = request[HEADER_BYTES : HEADER_BYTES + used.enc_bytes]
        context = used.recipient(enc, key.pair, _info(request[:HEADER_BYTES]))
        return Asked(context.open(request[HEADER_BYTES + used.enc_bytes :]), enc, context, used)
    except Exception as cause:  # Whatever a library says of bytes that somebody made up.
        raise _not_for_us() from cause


def _not_for_us() -> EncapsulationError:
    return EncapsulationError("the request is not sealed for a key of this gateway; fetch its keys again")


def _header(key_id: int, kem: int, algorithm: Algorithm) -> bytes:
    return key_id.to_bytes(1) + b"".join(number.to_bytes(2) for number in (kem, algorithm.kdf, algorithm.aead))


def _info(header: bytes) -> bytes:
    return b"message/bhttp request\0" + header
