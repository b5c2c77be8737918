"""The commands of a device, on tiny models, with the real trial in its own process and a real adapter."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from personalize.home import Home
from personalize.parcel import SCRYPT
from personalize.shelf import Shelf
from sdk.bundle import Bundle, default_bundle
from sdk.cli import app
from sdk.device.slots import Slots, lease
from sdk.errors import UpdateBusyError
from tests.sdk.cli.test_adapter import roomy_bundle
from tests.served import Served, device, numbers_bundle, served


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCRYPT, "n", 2**4)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    bundle = roomy_bundle(tmp_path, seed=0)
    monkeypatch.setenv("LIMBECK_BASE", str(bundle.folder))
    return bundle


@pytest.fixture
def repository(tmp_path: Path, base: Bundle) -> Iterator[Served]:
    with served(Served(tmp_path / "repository")) as repository:
        repository.add(base)
        repository.add(roomy_bundle(tmp_path, seed=1))
        repository.publish()
        (tmp_path / "root.json").write_bytes(repository.first_root)
        yield repository


def run(*words: str) -> Result:
    return CliRunner().invoke(app.cli, list(words), catch_exceptions=False)


def facts(*words: str) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_base_is_updated_with_its_adapter_and_taken_back(
    repository: Served, base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"note {row}", "answer": f"the cat sat near the {row} dogs"} for row in range(25)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    facts("remember", "--jsonl", str(file))
    assert facts("learn", "--steps", "1")["admitted"]
    home = Home.open(None)
    mine = Shelf(home).in_use
    first = facts("device", "check", "--repository", repository.url, "--root", str(tmp_path / "root.json"))
    assert (first["did"], first["offered"]) == ("can install", "1")
    made = facts("device", "install")
    assert made["did"] == "installed"
    assert made["adapters"]["default"]["way"] == "distil"
    assert Shelf(home).in_use != mine
    monkeypatch.delenv("LIMBECK_BASE")
    assert default_bundle().manifest.version == "1"
    monkeypatch.setenv("LIMBECK_BASE", str(base.folder))
    assert default_bundle().manifest.version == "0"
    assert "version 1, slot a" in run("device", "status").stdout
    assert "the shipped base is active again" in run("device", "rollback").stdout
    assert Shelf(home).in_use == mine
    assert Shelf(home).load(base_digest=base.base_digest) is not None
    assert facts("device", "install")["why"] == "failed"


def test_what_cannot_be_asked_is_one_line(base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("device", "check", "--repository", "http://localhost:9").exit_code == 2
    monkeypatch.setattr("sys.argv", ["limbeck", "device", "check"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 1


def test_a_slot_that_somebody_answers_from_is_not_overwritten(tmp_path: Path) -> None:
    """An assistant from before two updates still reads its slot; the third update waits for it."""
    bundles = [numbers_bundle(tmp_path / version, version=version, size=500, moved=int(version)) for version in "0123"]
    with served(Served(tmp_path / "repository")) as repository:
        held = None
        for bundle in bundles[1:]:
            repository.add(bundle)
            repository.publish()
            updates = device(tmp_path / "home", repository, bundles[0])
            if bundle is bundles[3] and held:
                with pytest.raises(UpdateBusyError, match="still answers from slot a"):
                    updates.install()
                held.end()
            updates.install()
            if held is None and (active := updates.active()):
                held = lease(active)
        assert Slots(updates.home).current == "a"
