"""An exported adapter: opens with its passphrase on a device with its base, and with nothing else."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from personalize import parcel
from personalize.errors import AdapterError, BaseMismatchError, ParcelError
from personalize.parcel import MAGIC, MAX_PARCEL_BYTES, SCRYPT, header_of, open_parcel, write_parcel
from tests.nights import DIGEST, SPEC, warm_adapter
from tests.tiny import tiny_model

GOLDEN = Path(__file__).parent.parent / "golden" / "parcel-v1" / "adapter.parcel"
PASSPHRASE = "correct horse battery staple"
OTHER_DIGEST = "sha256:" + "0" * 64
ADAPTER = warm_adapter(tiny_model())
LABEL = {"charge": {"epsilon": 2.0}, "label": {"night": {"epsilon": 2.0}}}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap guesses, where a test opens many files; the real settings stand in other tests."""
    monkeypatch.setitem(SCRYPT, "n", 2**4)


@pytest.fixture
def file(tmp_path: Path, quick: None) -> Path:
    write_parcel(tmp_path / "mine.parcel", ADAPTER, LABEL, passphrase=PASSPHRASE)
    return tmp_path / "mine.parcel"


def opened(path: Path, passphrase: str = PASSPHRASE) -> parcel.Parcel:
    return open_parcel(path, passphrase=passphrase, base_digest=DIGEST)


def parts(content: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Header, all that is authenticated in the open, and what is sealed; read as docs/parcel_format.md says."""
    assert content.startswith(b"limbeck parcel\n")
    size = int.from_bytes(content[15:19], "big")
    return json.loads(content[19 : 19 + size]), content[: 19 + size], content[19 + size :]


def with_header(path: Path, **changes: Any) -> Path:
    """The same file with another header in front."""
    header, _, sealed = parts(path.read_bytes())
    written = json.dumps(header | changes).encode()
    path.write_bytes(MAGIC + len(written).to_bytes(4, "big") + written + sealed)
    return path


def test_what_is_written_is_what_is_opened(tmp_path: Path) -> None:
    write_parcel(tmp_path / "mine", ADAPTER, LABEL, passphrase=PASSPHRASE)
    found = opened(tmp_path / "mine")
    assert found.label == LABEL
    assert (found.adapter.spec, found.adapter.kind, found.adapter.fits_base) == (SPEC, "frozen-a", DIGEST)
    for site, value in ADAPTER.b.items():
        assert torch.equal(found.adapter.b[site], value)
        assert torch.equal(found.adapter.a[site], ADAPTER.a[site])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600


def test_another_implementation_of_the_documented_format_opens_it(tmp_path: Path) -> None:
    write_parcel(tmp_path / "mine", ADAPTER, LABEL, passphrase=PASSPHRASE)
    header, front, sealed = parts((tmp_path / "mine").read_bytes())
    assert (header["format"], header["cipher"], header["fits_base"]) == ("parcel/1", "AES-256-GCM", DIGEST)
    assert header["scrypt"] == {"n": 131072, "r": 8, "p": 1}
    key = hashlib.scrypt(
        PASSPHRASE.encode(), salt=bytes.fromhex(header["salt"]), n=131072, r=8, p=1, maxmem=2**28, dklen=32
    )
    body = AESGCM(key).decrypt(bytes.fromhex(header["nonce"]), sealed, front)
    size = int.from_bytes(body[:4], "big")
    assert json.loads(body[4 : 4 + size]) == LABEL


def test_a_file_of_the_first_format_still_opens() -> None:
    found = opened(GOLDEN)
    assert (found.label, found.adapter.spec) == (LABEL, SPEC)


def test_the_file_tells_nothing_of_what_it_holds(file: Path) -> None:
    content = file.read_bytes()
    header, _, _ = parts(content)
    assert set(header) == {"format", "fits_base", "cipher", "scrypt", "salt", "nonce"}
    for secret in (b"epsilon", b"lora_A", b"q_proj", next(iter(ADAPTER.b.values())).numpy().tobytes()[:32]):
        assert secret not in content


def test_two_files_share_neither_salt_nor_nonce(file: Path) -> None:
    write_parcel(file.with_name("again"), ADAPTER, LABEL, passphrase=PASSPHRASE)
    one, other = parts(file.read_bytes()), parts(file.with_name("again").read_bytes())
    assert one[0]["salt"] != other[0]["salt"]
    assert one[0]["nonce"] != other[0]["nonce"]
    assert one[2][:64] != other[2][:64]


def test_the_same_passphrase_in_another_unicode_form_opens_it(tmp_path: Path, quick: None) -> None:
    write_parcel(tmp_path / "mine", ADAPTER, LABEL, passphrase="caf\u00e9 au lait grand")
    assert opened(tmp_path / "mine", "cafe\u0301 au lait grand").label == LABEL


# What is refused


@pytest.mark.parametrize("passphrase", ["", "correct horse battery stapl", PASSPHRASE.upper(), PASSPHRASE + " "])
def test_another_passphrase_does_not_open_it(file: Path, passphrase: str) -> None:
    with pytest.raises(ParcelError, match="the passphrase is another, or the file was changed or cut"):
        opened(file, passphrase)


def test_a_short_passphrase_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ParcelError, match="the passphrase has 11 characters, a file that leaves the device needs 12"):
        write_parcel(tmp_path / "mine", ADAPTER, LABEL, passphrase="elevenchars")
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_of_the_front_and_some_of_the_rest_are_noticed(file: Path) -> None:
    content, front = file.read_bytes(), len(parts(file.read_bytes())[1])
    places = [*range(front + 40), *range(front + 40, len(content), 997), len(content) - 1]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(bytes(changed))
        with pytest.raises((ParcelError, BaseMismatchError)):
            opened(file)


def test_a_file_without_authentication_of_its_header_would_be_caught(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unbound:
        def __init__(self, key: bytes) -> None:
            self.real = AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            return self.real.encrypt(nonce, data, None)

        def decrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            return self.real.decrypt(nonce, data, None)

    monkeypatch.setattr(parcel, "AESGCM", Unbound)
    file.unlink()
    write_parcel(file, ADAPTER, LABEL, passphrase=PASSPHRASE)
    with pytest.raises(pytest.fail.Exception):
        test_a_header_that_was_written_anew_does_not_open(file)


def test_a_header_that_was_written_anew_does_not_open(file: Path) -> None:
    with pytest.raises(ParcelError, match="does not open"):
        opened(with_header(file, note="from a friend"))


@pytest.mark.parametrize("kept", [0, 5, 15, 18, 19, 100, 400, -1, -16, -1000])
def test_a_file_that_was_cut_is_refused(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ParcelError):
        opened(file)


def test_something_after_the_end_is_noticed(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ParcelError, match="does not open"):
        opened(file)


def test_another_base_is_refused_before_a_passphrase_is_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "_key", lambda passphrase, salt: pytest.fail("the passphrase was used"))
    for ask in (
        lambda: header_of(file, base_digest=OTHER_DIGEST),
        lambda: open_parcel(file, passphrase="", base_digest=OTHER_DIGEST),
    ):
        with pytest.raises(BaseMismatchError, match=r"learned on base sha256:555555555555…, this base is sha256:0+…"):
            ask()
    assert header_of(file, base_digest=DIGEST)["format"] == "parcel/1"


def test_a_base_digest_that_was_written_over_does_not_open(file: Path) -> None:
    with pytest.raises(ParcelError, match="does not open"):
        open_parcel(with_header(file, fits_base=OTHER_DIGEST), passphrase=PASSPHRASE, base_digest=OTHER_DIGEST)


def test_a_newer_format_is_named(file: Path) -> None:
    with pytest.raises(ParcelError, match="has format 'parcel/2', this version reads parcel/1; update limbeck"):
        opened(with_header(file, format="parcel/2"))


@pytest.mark.parametrize(
    "changes",
    [
        {"scrypt": {"n": 2**40, "r": 8, "p": 1}},
        {"scrypt": {"n": 2, "r": 8, "p": 1}},
        {"scrypt": {"n": 2**4, "r": 8, "p": 10**9}},
        {"cipher": "none"},
        {"salt": ""},
        {"salt": "zz"},
        {"nonce": "00"},
        {"nonce": 5},
    ],
)
def test_a_header_that_asks_for_other_settings_is_refused_before_any_work(
    file: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcel, "_key", lambda passphrase, salt: pytest.fail("a key was derived"))
    with pytest.raises(ParcelError, match="has a damaged header; copy it again"):
        opened(with_header(file, **changes))


@pytest.mark.parametrize("header", [b"", b"[]", b"5", b'"x"', b"{", b"{}", b"[" * 4000, b"\xff\xfe"])
def test_a_header_that_is_no_object_is_refused(file: Path, header: bytes) -> None:
    file.write_bytes(MAGIC + len(header).to_bytes(4, "big") + header + b"\0" * 64)
    with pytest.raises(ParcelError, match="has a damaged header"):
        opened(file)


def test_a_header_that_says_it_is_huge_is_refused(file: Path) -> None:
    file.write_bytes(MAGIC + b"\xff\xff\xff\xff" + b"\0" * 64)
    with pytest.raises(ParcelError, match="is cut short or damaged"):
        opened(file)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("limbeck")
    with pytest.raises(ParcelError, match="is no exported adapter; name the file"):
        opened(tmp_path / "text")


def test_a_huge_file_is_refused_before_it_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file.open("r+b") as sparse:
        sparse.truncate(MAX_PARCEL_BYTES + 1)
    monkeypatch.setattr(parcel, "_parted", lambda *seen: pytest.fail("it was read"))
    with pytest.raises(ParcelError, match="has 67 MB; an exported adapter never has so many"):
        opened(file)


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ParcelError, match=r"cannot read|is no plain file"):
        opened(tmp_path)
    with pytest.raises(ParcelError, match=r"cannot read .*missing: No such file"):
        opened(tmp_path / "missing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # Nobody writes to it: a plain open would wait for ever.
        with pytest.raises(ParcelError, match="is no plain file"):
            opened(tmp_path / "pipe")


def test_a_sealed_body_that_is_no_adapter_is_one_line(file: Path) -> None:
    header, front, _ = parts(file.read_bytes())
    seal = AESGCM(parcel._key(PASSPHRASE, bytes.fromhex(header["salt"])))
    label = json.dumps(LABEL).encode()
    bodies = {
        b"": "holds no label",
        b"\0\0\0\x02[]": "cannot be read",
        len(label).to_bytes(4, "big") + label: "cannot be read",
        len(label).to_bytes(4, "big") + label + b"\xff" * 64: "cannot be read",
        len(label).to_bytes(4, "big") + label + ADAPTER.to_bytes()[:-4]: "cannot be read",
    }
    for body, line in bodies.items():
        file.write_bytes(front + seal.encrypt(bytes.fromhex(header["nonce"]), body, front))
        with pytest.raises(AdapterError, match=line):
            opened(file)


def test_a_file_that_is_there_is_never_written_over(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ParcelError, match="exists; choose another name, or remove it first"):
        write_parcel(file, ADAPTER, LABEL, passphrase=PASSPHRASE)
    assert file.read_bytes() == before


def test_no_room_leaves_no_file(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ParcelError, match=r"cannot write .*: No space left on device; choose another place"):
        write_parcel(tmp_path / "mine", ADAPTER, LABEL, passphrase=PASSPHRASE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, quick: None) -> None:
    with pytest.raises(ParcelError, match="No such file or directory; choose another place"):
        write_parcel(tmp_path / "nowhere" / "mine", ADAPTER, LABEL, passphrase=PASSPHRASE)
