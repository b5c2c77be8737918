"""A key that never leaves its PKCS#11 token: named, made a manager's, signed with; on SoftHSM where it is here."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk.errors import SigningKeyError, ThresholdError
from sdk.release.keys import import_token, open_key, public_key
from sdk.release.publish import publish
from sdk.release.repository import Repository
from sdk.release.rotate import begin
from sdk.release.sign import sign
from tests.simulators import ANA, BEN, SERVER, THRESHOLDS, ReleaseHouse, public

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
PIN, SLOT = "123456", 2


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An initialised token of its own with one P-256 key."""
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: limbeck[hsm] brings it")
    module = next((file for file in MODULES if Path(file).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("no SoftHSM here: Debian's package softhsm2 brings it")
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    before = {name: os.environ.get(name) for name in ("SOFTHSM2_CONF", "PYKCS11LIB")}
    os.environ |= {"SOFTHSM2_CONF": str(folder / "softhsm2.conf"), "PYKCS11LIB": module}
    command = ("softhsm2-util", "--init-token", "--free", "--label", "ana", "--so-pin", PIN, "--pin", PIN)
    subprocess.run(command, check=True, capture_output=True)
    with pkcs11.lib(module).get_token(token_label="ana").open(rw=True, user_pin=PIN) as session:
        named = {pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("secp256r1")}
        curve = session.create_domain_parameters(pkcs11.KeyType.EC, named, local=True)
        curve.generate_keypair(store=True, id=bytes([SLOT]), label="signing")
    yield pkcs11
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def test_a_manager_with_a_token_signs_and_devices_accept_it(token: object, tmp_path: Path) -> None:
    private, shared = import_token("hana", tmp_path, keyid=None, pin=lambda what: PIN)
    assert b"PRIVATE" not in private.read_bytes()
    house = object.__new__(ReleaseHouse)
    like = ReleaseHouse(tmp_path / "other")
    house.now = like.now
    everybody = [*public(ANA, BEN), public_key(shared)]
    online = SERVER.signer.public_key
    begin(tmp_path / "r", root=everybody, targets=everybody, online=online, thresholds=THRESHOLDS, now=house.now)
    house.repository = Repository.open(tmp_path / "r")
    house.sign(ANA)
    with pytest.raises(ThresholdError):
        publish(house.repository, SERVER, now=house.now)
    asked: list[str] = []

    def pin(what: str) -> str:
        asked.append(what)
        return PIN

    house.sign(open_key(private, pin))
    assert asked
    assert set(asked) == {"pin"}
    assert publish(house.repository, SERVER, now=house.now).versions["root"] == 1


def test_a_wrong_pin_and_a_key_that_is_not_there_are_one_line(token: object, tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="the token gives no key"):
        import_token("hana", tmp_path, keyid=7, pin=lambda what: PIN)
    assert list(tmp_path.iterdir()) == []
    private, shared = import_token("hana", tmp_path, keyid=SLOT, pin=lambda what: PIN)
    house = ReleaseHouse(tmp_path / "r", publish=False)
    request = house.repository.waiting()
    assert request is not None
    with pytest.raises(SigningKeyError, match="may sign none of this"):
        sign(request, open_key(private, lambda what: "wrong!"))
    everybody = [*public(ANA), public_key(shared)]
    online = SERVER.signer.public_key
    begun = begin(
        tmp_path / "s", root=everybody, targets=everybody, online=online, thresholds=THRESHOLDS, now=house.now
    )
    with pytest.raises(SigningKeyError, match="hana could not sign"):
        sign(begun, open_key(private, lambda what: "wrong!"))
