"""The whole way on the command line: two managers, one server, one release; and refusals in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from sdk.cli import app
from sdk.cli.release import release
from sdk.errors import SigningKeyError
from sdk.release import keys
from tests.simulators import small_bundle


class Refused(Exception):
    """Exit code and what stood on stderr."""


Limbeck = Callable[..., str]


@pytest.fixture
def limbeck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Limbeck:
    """What a command of `limbeck release`, called in the test's folder, prints; a refusal raises. Keys open quickly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(keys.SCRYPT, "n", 2**4)

    def run(*arguments: str, passphrase: str = "five random words are good") -> str:
        monkeypatch.setenv("LIMBECK_PASSPHRASE", passphrase)
        monkeypatch.setattr(sys, "argv", ["limbeck", "release", *arguments])
        try:
            app.main()
        except SystemExit as ended:
            raise Refused(ended.code, capsys.readouterr().err) from None
        return capsys.readouterr().out

    return run


def test_a_key_is_made_by_the_program_itself(tmp_path: Path) -> None:
    """In a process of its own, as a manager calls it: exit codes and streams are the real ones."""
    command = [sys.executable, "-m", "sdk.cli.app", "release", "keygen", "ana", "--json"]
    for passphrase, code, where in (("short", 1, "stderr"), ("five random words are good", 0, "stdout")):
        env = {**os.environ, "LIMBECK_PASSPHRASE": passphrase, "PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == code
        assert len(getattr(done, where).splitlines()) == 1 or json.loads(done.stdout)["private"] == "ana.key"


@pytest.mark.parametrize("name", sorted(release.commands))
def test_every_command_that_writes_has_a_dry_run(name: str) -> None:
    reads_only = {"status", "verify"}
    command = release.commands[name]
    for each in command.commands.values() if isinstance(command, click.Group) else [command]:
        has = any("--dry-run" in option.opts for option in each.params)
        assert has is (name not in reads_only)


def test_a_dry_run_of_a_key_and_of_a_delta_leaves_nothing(tmp_path: Path, limbeck: Limbeck) -> None:
    old, new = (
        small_bundle(tmp_path, version=version, seed=seed).folder.name for version, seed in (("1", 0), ("2", 1))
    )
    before = sorted(tmp_path.rglob("*"))
    assert "would be written" in limbeck("keygen", "ana", "--dry-run")
    dry = json.loads(limbeck("delta", old, new, "--out", "delta", "--dry-run", "--json"))
    assert sorted(tmp_path.rglob("*")) == before
    assert json.loads(limbeck("delta", old, new, "--out", "delta", "--json")) == dry
    assert (tmp_path / "delta").stat().st_size == dry["bytes"]
    limbeck("keygen", "ana")
    with pytest.raises(Refused, match="exists and is not replaced"):
        limbeck("keygen", "ana", "--dry-run")


def test_two_managers_release_a_bundle_from_their_own_machines(tmp_path: Path, limbeck: Limbeck) -> None:
    for name in ("ana", "ben", "server"):
        limbeck("keygen", name)
    assert (tmp_path / "ana.key").stat().st_mode & 0o077 == 0
    assert "BEGIN ENCRYPTED PRIVATE KEY" in (tmp_path / "ana.key").read_text()
    limbeck("init", "house", "--root", "ana.pub", "--root", "ben.pub", "--online", "server.pub")
    with pytest.raises(Refused, match="signatures are missing: root: nobody has signed; 2 more needed from ana or ben"):
        limbeck("publish", "house", "--key", "server.key")
    for name in ("ana", "ben"):
        shutil.copy(tmp_path / "house" / "waiting.json", tmp_path / f"{name}.json")
    with pytest.raises(Refused, match=r"ben\.key does not open: the passphrase is wrong"):
        limbeck("sign", "ben.json", "--key", "ben.key", "--yes", passphrase="another passphrase")
    for name in ("ana", "ben"):
        limbeck("sign", f"{name}.json", "--key", f"{name}.key", "--yes")
    limbeck("publish", "house", "ana.json", "ben.json", "--key", "server.key")

    bundle = small_bundle(tmp_path).folder.name
    dry = json.loads(limbeck("add", "house", bundle, "--percent", "0.5", "--dry-run", "--json"))
    assert dry["words"][0].startswith("stable: small 1 is offered to 0.50 % of devices")
    assert dry["waiting"] is None
    assert not (tmp_path / "house" / "waiting.json").exists()
    added = json.loads(limbeck("add", "house", bundle, "--percent", "0.5", "--json"))
    assert added["missing"] == {"stable": {"needed": 2, "of": ["ana", "ben"]}}
    for name in ("ana", "ben"):
        limbeck("sign", "house/waiting.json", "--key", f"{name}.key", "--bundle", bundle, "--yes")
    limbeck("publish", "house", "--key", "server.key")
    assert json.loads(limbeck("verify", "house", "--json"))["offered"]["stable"] == {"small": ["1"]}
    assert "stable: small\n  1: 0.50 % of devices" in limbeck("status", "house", "--page", "page.html")
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
