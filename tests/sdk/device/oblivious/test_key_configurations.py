"""Key configurations: what is read, what is discarded, what is chosen."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.device.oblivious.key_configurations import KeyConfiguration, chosen, parse, serialise
from sdk.device.oblivious.suites import PUBLIC_KEY_BYTES, Algorithm
from sdk.errors import KeyConfigurationError

ALGORITHMS = st.lists(st.builds(Algorithm, st.integers(0, 65535), st.integers(0, 65535)), min_size=1, max_size=5)


@st.composite
def configurations(draw: st.DrawFn) -> KeyConfiguration:
    kem = draw(st.sampled_from(sorted(PUBLIC_KEY_BYTES)))
    size = PUBLIC_KEY_BYTES[kem]
    public_key = draw(st.binary(min_size=size, max_size=size))
    key_id, algorithms = draw(st.integers(0, 255)), tuple(draw(ALGORITHMS))
    return KeyConfiguration(key_id=key_id, kem=kem, public_key=public_key, algorithms=algorithms)


def one(key_id: int = 1, kem: int = 0x20, *algorithms: Algorithm) -> KeyConfiguration:
    public_key = bytes(PUBLIC_KEY_BYTES[kem])
    return KeyConfiguration(key_id=key_id, kem=kem, public_key=public_key, algorithms=algorithms or (Algorithm(1, 1),))


@settings(max_examples=25)
@given(st.lists(configurations(), min_size=1, max_size=4))
def test_what_is_written_is_read_back(found: list[KeyConfiguration]) -> None:
    assert parse(serialise(found)) == tuple(found)


@settings(max_examples=50)
@given(st.lists(configurations(), min_size=1, max_size=3), st.data())
def test_changed_or_cut_bytes_are_keys_or_the_one_error(found: list[KeyConfiguration], data: st.DataObject) -> None:
    encoded = bytearray(serialise(found))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with suppress(KeyConfigurationError):
        parse(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))


@pytest.mark.parametrize(
    ("collection", "why"),
    [
        (b"", "offers no key"),
        (b"\x00", "end in the middle"),
        (serialise([one()])[:-1], "end in the middle"),
        (serialise([one()]) + b"\x00\x02ab", "is none"),
        (b"\x00\x05" + b"\x01\x12\x34ab", "offers no key"),
        (b"\x00\x25" + one().encoded[:35] + b"\x00\x00", "list of ciphers"),
        (b"\x00\x28" + one().encoded[:35] + b"\x00\x03abc", "list of ciphers"),
        (b"\x00\x2a" + one().encoded + b"x", "list of ciphers"),
        (bytes(65 * 1024), "over 65536"),
    ],
)
def test_a_collection_with_one_wrong_byte_is_discarded_whole(collection: bytes, why: str) -> None:
    with pytest.raises(KeyConfigurationError, match=why):
        parse(collection)


def test_a_kind_of_key_from_the_future_is_skipped() -> None:
    future = b"\x09\x00\x99" + bytes(1184) + b"\x00\x04\x00\x01\x00\x01"
    assert parse(len(future).to_bytes(2) + future + serialise([one()])) == (one(),)


def test_the_newest_of_the_most_preferred_kind_is_chosen() -> None:
    newest, older, other = one(3), one(2), one(4, 0x10)
    assert chosen([other, newest, older]) == (newest, Algorithm(1, 1))


def test_every_device_chooses_the_same_cipher_whatever_the_order() -> None:
    offered = (Algorithm(9, 9), Algorithm(1, 3), Algorithm(1, 1))
    assert chosen([one(1, 0x20, *offered)])[1] == chosen([one(1, 0x20, *reversed(offered))])[1] == Algorithm(1, 1)
    assert chosen([one(1, 0x20, Algorithm(9, 9), Algorithm(2, 1))])[1] == Algorithm(2, 1)


def test_a_gateway_with_ciphers_of_the_future_only_is_refused() -> None:
    with pytest.raises(KeyConfigurationError, match="no cipher"):
        chosen([one(1, 0x20, Algorithm(1, 0xFFFF))])
