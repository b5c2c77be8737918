"""The whole way on the command line: two managers, one server, one release; and refusals in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdk.errors import SigningKeyError
from sdk.release import keys
from tests.simulators import small_bundle


def limbeck(folder: Path, *arguments: str, passphrase: str = "five random words are good", **environment: str) -> str:
    """What a command of `limbeck release` prints; a refusal raises."""
    command = [sys.executable, "-c", "from sdk.cli.app import main; main()", "release", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "LIMBECK_PASSPHRASE": passphrase,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise Refused(done.returncode, done.stderr)
    return done.stdout


class Refused(Exception):
    """Exit code and what stood on stderr."""


def test_two_managers_release_a_bundle_from_their_own_machines(tmp_path: Path) -> None:
    for name in ("ana", "ben", "server"):
        keys.make_key(name, tmp_path, passphrase="five random words are good")
    assert (tmp_path / "ana.key").stat().st_mode & 0o077 == 0
    assert "BEGIN ENCRYPTED PRIVATE KEY" in (tmp_path / "ana.key").read_text()
    limbeck(tmp_path, "init", "house", "--root", "ana.pub", "--root", "ben.pub", "--online", "server.pub")
    with pytest.raises(Refused, match="signatures are missing: root: nobody has signed; 2 more needed from ana or ben"):
        limbeck(tmp_path, "publish", "house", "--key", "server.key")
    for name in ("ana", "ben"):
        shutil.copy(tmp_path / "house" / "waiting.json", tmp_path / f"{name}.json")
    with pytest.raises(Refused, match=r"ben\.key does not open: the passphrase is wrong"):
        limbeck(tmp_path, "sign", "ben.json", "--key", "ben.key", "--yes", passphrase="another passphrase")
    for name in ("ana", "ben"):
        limbeck(tmp_path, "sign", f"{name}.json", "--key", f"{name}.key", "--yes")
    limbeck(tmp_path, "publish", "house", "ana.json", "ben.json", "--key", "server.key")

    bundle = small_bundle(tmp_path).folder.name
    dry = json.loads(limbeck(tmp_path, "add", "house", bundle, "--percent", "0.5", "--dry-run", "--json"))
    assert dry["words"][0].startswith("stable: small 1 is offered to 0.50 % of devices")
    assert dry["waiting"] is None
    assert not (tmp_path / "house" / "waiting.json").exists()
    added = json.loads(limbeck(tmp_path, "add", "house", bundle, "--percent", "0.5", "--json"))
    assert added["missing"] == {"stable": {"needed": 2, "of": ["ana", "ben"]}}
    for name in ("ana", "ben"):
        limbeck(tmp_path, "sign", "house/waiting.json", "--key", f"{name}.key", "--bundle", bundle, "--yes")
    limbeck(tmp_path, "publish", "house", "--key", "server.key")
    assert json.loads(limbeck(tmp_path, "verify", "house", "--json"))["offered"]["stable"] == {"small": ["1"]}
    assert "stable: small\n  1: 0.50 % of devices" in limbeck(tmp_path, "status", "house", "--page", "page.html")
    assert (tmp_path / "page.html").exists()


def test_a_short_passphrase_and_an_odd_name_make_no_key(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="has 5 characters, a signing key needs 12"):
        keys.make_key("ana", tmp_path, passphrase="short")
    with pytest.raises(SigningKeyError, match="cannot be a name"):
        keys.make_key("../ana", tmp_path, passphrase="five random words are good")
    assert list(tmp_path.iterdir()) == []


def test_a_token_without_its_library_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("securesystemslib.signer._hsm_signer")
    with pytest.raises(SigningKeyError) as refused:
        keys.import_token("ana", tmp_path, keyid=None, pin=lambda what: "123456")
    assert "limbeck[hsm]" in str(refused.value) or "the token gives no key" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
