import os
import stat
import threading
from pathlib import Path

import pytest

from privacy.device_key import DeviceKey
from privacy.errors import DeviceKeyError
from tests.privacy.keyrings import installed, none_installed


@pytest.fixture
def keyring_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMBECK_KEYRING", raising=False)


def test_the_same_home_gives_the_same_key_and_another_home_another(tmp_path: Path) -> None:
    first = DeviceKey.open(tmp_path / "a").derive("ledger")
    assert DeviceKey.open(tmp_path / "a").derive("ledger") == first
    assert DeviceKey.open(tmp_path / "b").derive("ledger") != first


def test_the_file_holds_32_bytes_that_only_the_user_can_read(tmp_path: Path) -> None:
    key = DeviceKey.open(tmp_path)
    assert key.place == "file"
    file = tmp_path / "device.key"
    assert len(file.read_bytes()) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_each_purpose_has_a_key_of_its_own(tmp_path: Path) -> None:
    key = DeviceKey.open(tmp_path)
    derived = {key.derive(purpose) for purpose in ("ledger", "store", "anchor")}
    assert len(derived) == 3
    assert all(len(one) == 32 for one in derived)
    assert (tmp_path / "device.key").read_bytes() not in derived
    with pytest.raises(DeviceKeyError, match="purpose"):
        key.derive("")


def test_derivation_is_hkdf_sha256_of_rfc_5869() -> None:
    import hashlib
    import hmac

    secret = bytes(range(32))
    extracted = hmac.new(b"\0" * 32, secret, hashlib.sha256).digest()
    expanded = hmac.new(extracted, b"limbeck/1 ledger\x01", hashlib.sha256).digest()
    assert DeviceKey(secret, place="file").derive("ledger") == expanded


def test_nothing_prints_the_key(tmp_path: Path) -> None:
    key = DeviceKey.open(tmp_path)
    secret = (tmp_path / "device.key").read_bytes()
    assert secret.hex() not in repr(key) + str(key)
    assert repr(secret)[2:20] not in repr(key)


def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    DeviceKey.open(tmp_path)
    file = tmp_path / "device.key"
    for content in (b"", b"x" * 31, b"x" * 33):
        file.write_bytes(content)
        with pytest.raises(DeviceKeyError, match="damaged"):
            DeviceKey.open(tmp_path)
        assert file.read_bytes() == content


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    DeviceKey.open(tmp_path)
    (tmp_path / "device.key").chmod(mode)
    with pytest.raises(DeviceKeyError, match="chmod 600"):
        DeviceKey.open(tmp_path)


def test_a_home_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DeviceKeyError) as caught:
        DeviceKey.open(tmp_path / "file" / "home")
    assert "\n" not in str(caught.value)


def test_many_threads_that_open_a_fresh_home_agree_on_one_key(tmp_path: Path) -> None:
    derived: list[bytes] = []
    gate = threading.Barrier(8)

    def use() -> None:
        gate.wait()
        derived.append(DeviceKey.open(tmp_path).derive("ledger"))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(derived) == 8
    assert len(set(derived)) == 1


@pytest.mark.usefixtures("keyring_on")
def test_a_real_keyring_holds_the_key_and_the_home_only_its_name(tmp_path: Path) -> None:
    with installed() as backend:
        key = DeviceKey.open(tmp_path)
        assert key.place == "keyring"
        assert DeviceKey.open(tmp_path).derive("x") == key.derive("x")
        assert [file.name for file in tmp_path.iterdir()] == ["device.keyring"]
        assert len(backend.kept) == 1
        assert next(iter(backend.kept.values())) not in (tmp_path / "device.keyring").read_text()


@pytest.mark.usefixtures("keyring_on")
@pytest.mark.parametrize("broken", ["locked", "forgetful"])
def test_a_keyring_that_does_not_keep_the_key_is_passed_over(tmp_path: Path, broken: str) -> None:
    with installed() as backend:
        setattr(backend, broken, True)
        assert DeviceKey.open(tmp_path).place == "file"


@pytest.mark.usefixtures("keyring_on")
def test_a_system_without_a_keyring_uses_the_file(tmp_path: Path) -> None:
    with installed(none_installed()):
        assert DeviceKey.open(tmp_path).place == "file"


@pytest.mark.usefixtures("keyring_on")
def test_a_home_whose_key_is_in_the_keyring_never_silently_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed() as backend:
        DeviceKey.open(tmp_path)
        backend.locked = True
        with pytest.raises(DeviceKeyError, match="unlock"):
            DeviceKey.open(tmp_path)
        backend.locked = False
        backend.kept.clear()
        with pytest.raises(DeviceKeyError, match="not in the system keyring"):
            DeviceKey.open(tmp_path)
        monkeypatch.setenv("LIMBECK_KEYRING", "0")
        with pytest.raises(DeviceKeyError, match="unset LIMBECK_KEYRING"):
            DeviceKey.open(tmp_path)
        monkeypatch.delenv("LIMBECK_KEYRING")
        for damaged in ("", "[]", '{"format": "device_key/2", "keyring": "x"}', "{}"):
            (tmp_path / "device.keyring").write_text(damaged)
            with pytest.raises(DeviceKeyError):
                DeviceKey.open(tmp_path)
    assert not (tmp_path / "device.key").exists()
