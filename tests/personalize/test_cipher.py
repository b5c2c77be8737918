import os

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from personalize.cipher import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Cipher
from personalize.errors import SealError, StoreError

KEY = bytes(range(KEY_BYTES))


@given(plain=st.binary(), place=st.lists(st.text()))
def test_what_is_sealed_opens_at_its_place(plain: bytes, place: list[str]) -> None:
    cipher = Cipher(KEY)
    sealed = cipher.seal(plain, *place)
    assert cipher.open(sealed, *place) == plain
    assert len(sealed) == len(plain) + NONCE_BYTES + TAG_BYTES


@given(plain=st.binary(), at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_one_changed_bit_is_refused(plain: bytes, at: int, bit: int) -> None:
    cipher = Cipher(KEY)
    sealed = bytearray(cipher.seal(plain, "row"))
    sealed[at % len(sealed)] ^= 1 << bit
    with pytest.raises(SealError):
        cipher.open(bytes(sealed), "row")


@pytest.mark.parametrize("place", [("ab", "c"), ("a", "b", "c"), ("a",), ("bc", "a"), ()])
def test_another_place_is_refused(place: tuple[str, ...]) -> None:
    cipher = Cipher(KEY)
    with pytest.raises(SealError):
        cipher.open(cipher.seal(b"text", "a", "bc"), *place)


def test_another_key_is_refused() -> None:
    with pytest.raises(SealError, match="another key"):
        Cipher(os.urandom(KEY_BYTES)).open(Cipher(KEY).seal(b"text"))


@pytest.mark.parametrize("size", [0, NONCE_BYTES, NONCE_BYTES + TAG_BYTES - 1])
def test_too_few_bytes_are_refused(size: int) -> None:
    with pytest.raises(SealError, match=f"has {size} bytes"):
        Cipher(KEY).open(bytes(size))


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(StoreError, match=f"has {size} bytes instead of 32"):
        Cipher(bytes(size))


def test_every_value_gets_its_own_nonce() -> None:
    cipher = Cipher(KEY)
    assert len({cipher.seal(b"same text", "row")[:NONCE_BYTES] for _ in range(2_000)}) == 2_000


def test_a_reused_nonce_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.cipher.os.urandom", lambda size: b"n" * size)
    with pytest.raises(AssertionError):
        test_every_value_gets_its_own_nonce()


def test_the_given_key_itself_seals_nothing() -> None:
    sealed = Cipher(KEY).seal(b"text")
    with pytest.raises(InvalidTag):
        AESGCM(KEY).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], b"[]")


def test_a_name_is_found_by_its_tag_whatever_its_case_and_spacing() -> None:
    cipher = Cipher(KEY)
    assert cipher.tag(" Ana@Example.org") == cipher.tag("ana@example.ORG ")
    assert cipher.tag("ana@example.org") != cipher.tag("ann@example.org")
    assert cipher.tag("ana@example.org") != Cipher(os.urandom(KEY_BYTES)).tag("ana@example.org")
