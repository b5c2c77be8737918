"""Encapsulation against RFC 9458's Appendix A byte for byte, for every suite, and against changed bytes."""

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pyhpke import KEMKey, KEMKeyPair

from sdk.device.oblivious.encapsulation import GatewayKey, open_request, seal_request
from sdk.device.oblivious.key_configurations import KeyConfiguration, parse
from sdk.device.oblivious.suites import KEMS, Algorithm, derived_pair
from sdk.errors import EncapsulationError, KeyConfigurationError

CONFIGURATION = bytes.fromhex(
    "01002031e1f05a740102115220e9af918f738674aec95f54db6e04eb705aae8e79815500080001000100010003"
)
REQUEST = bytes.fromhex("00034745540568747470730b6578616d706c652e636f6d012f")
SEALED_REQUEST = bytes.fromhex(
    "010020000100014b28f881333e7c164ffc499ad9796f877f4e1051ee6d31bad19dec96c208b4726374e469135906992e1268c594d2a10c"
    "695d858c40a026e7965e7d86b83dd440b2c0185204b4d63525"
)
RESPONSE = bytes.fromhex("0140c8")
NONCE = bytes.fromhex("c789e7151fcba46158ca84b04464910d")
SEALED_RESPONSE = bytes.fromhex("c789e7151fcba46158ca84b04464910d86f9013e404feea014e7be4a441f234f857fbd")
AES, ALGORITHMS = Algorithm(1, 1), [Algorithm(kdf, aead) for kdf, aead in itertools.product((1, 2, 3), (1, 2, 3))]


def pair(private: str) -> KEMKeyPair:
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    return KEMKeyPair(KEMKey.from_pyca_cryptography_key(key), KEMKey.from_pyca_cryptography_key(key.public_key()))


def their_key() -> GatewayKey:
    (configuration,) = parse(len(CONFIGURATION).to_bytes(2) + CONFIGURATION)
    private = "3c168975674b2fa8e465970b79c8dcf09f1c741626480bd4c6162fc5b6a98e1a"
    return GatewayKey(configuration=configuration, pair=pair(private))


def made_key(kem: int = 0x20, *algorithms: Algorithm, key_id: int = 7, seed: bytes = b"s" * 66) -> GatewayKey:
    made = derived_pair(kem, seed)
    configuration = KeyConfiguration(
        key_id=key_id, kem=kem, public_key=made.public_key.to_public_bytes(), algorithms=algorithms or (AES,)
    )
    return GatewayKey(configuration=configuration, pair=made)


def test_the_example_of_rfc_9458_is_sealed_and_opened_byte_for_byte() -> None:
    key = their_key()
    ephemeral = pair("bc51d5e930bda26589890ac7032f70ad12e4ecb37abb1b65b1256c9c48999c73")
    sealed = seal_request(key.configuration, AES, REQUEST, ephemeral=ephemeral)
    assert sealed.request == SEALED_REQUEST
    asked = open_request(SEALED_REQUEST, {1: key})
    assert asked.content == REQUEST
    assert asked.seal(RESPONSE, nonce=NONCE) == SEALED_RESPONSE
    assert sealed.open(SEALED_RESPONSE) == RESPONSE


@pytest.mark.parametrize("kem", KEMS.values(), ids=KEMS.keys())
def test_every_suite_carries_a_question_there_and_an_answer_back(kem: int) -> None:
    key = made_key(kem, *ALGORITHMS)
    for algorithm in ALGORITHMS:
        sealed = seal_request(key.configuration, algorithm, REQUEST)
        asked = open_request(sealed.request, {7: key})
        assert asked.content == REQUEST
        assert sealed.open(asked.seal(RESPONSE)) == RESPONSE


def test_equal_questions_and_equal_answers_look_unlike() -> None:
    key = made_key()
    first, second = (seal_request(key.configuration, AES, REQUEST) for _ in range(2))
    assert first.request[7:] != second.request[7:]
    asked = open_request(first.request, {7: key})
    assert asked.seal(RESPONSE) != asked.seal(RESPONSE)


def test_an_answer_to_another_question_is_refused() -> None:
    key = made_key()
    first, second = (seal_request(key.configuration, AES, REQUEST) for _ in range(2))
    answer = open_request(first.request, {7: key}).seal(RESPONSE)
    with pytest.raises(EncapsulationError, match="not sealed for this question"):
        second.open(answer)
    with pytest.raises(EncapsulationError, match="too short"):
        first.open(answer[:15])


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_byte_of_a_question_or_an_answer_can_be_changed(place: int, change: int) -> None:
    key = made_key()
    sealed = seal_request(key.configuration, AES, REQUEST)
    changed = bytearray(sealed.request)
    changed[place % len(changed)] ^= change
    with pytest.raises(EncapsulationError):
        open_request(bytes(changed), {7: key, 8: key})
    answer = bytearray(open_request(sealed.request, {7: key}).seal(RESPONSE))
    answer[place % len(answer)] ^= change
    with pytest.raises(EncapsulationError):
        sealed.open(bytes(answer))


@settings(max_examples=40)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_text(noise: bytes) -> None:
    for begin in (b"", b"\x07\x00\x20\x00\x01\x00\x01"):
        with pytest.raises(EncapsulationError, match="not sealed for a key of this gateway"):
            open_request(begin + noise, {7: made_key()})


@pytest.mark.parametrize("kem", KEMS.values(), ids=KEMS.keys())
@pytest.mark.parametrize("point", [b"\0", b"\xff", b"\x04"])
def test_a_key_that_is_no_point_is_refused_on_both_sides(kem: int, point: bytes) -> None:
    key = made_key(kem)
    size = len(key.configuration.public_key)
    enc = (point * size)[:size]
    header = b"\x07" + kem.to_bytes(2) + b"\x00\x01\x00\x01"
    with pytest.raises(EncapsulationError, match="not sealed for a key"):
        open_request(header + enc + b"x" * 40, {7: key})
    wrong = KeyConfiguration(key_id=7, kem=kem, public_key=enc, algorithms=(AES,))
    if point == b"\0" or kem not in (0x20, 0x21):  # On a Montgomery curve other bytes are points.
        with pytest.raises(EncapsulationError, match="no point"):
            seal_request(wrong, AES, REQUEST)


def test_ciphers_that_were_not_offered_are_refused() -> None:
    key = made_key(0x20, Algorithm(1, 3))
    sealed = seal_request(key.configuration, AES, REQUEST)
    with pytest.raises(EncapsulationError):
        open_request(sealed.request, {7: key})


def test_an_answer_without_its_own_nonce_would_repeat_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded mutant of the random nonce: two answers to one replayed question would share key and nonce."""
    key = made_key()
    asked = open_request(seal_request(key.configuration, AES, REQUEST).request, {7: key})
    monkeypatch.setattr("secrets.token_bytes", lambda size: b"0" * size)
    assert asked.seal(RESPONSE) == asked.seal(RESPONSE)


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(EncapsulationError, match="not supported"):
        seal_request(made_key().configuration, Algorithm(1, 0xFFFF), REQUEST)
    with pytest.raises(KeyConfigurationError):
        parse(b"")
