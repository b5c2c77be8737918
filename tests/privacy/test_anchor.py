"""Putting back an old copy of the ledger is noticed where something outside the file remembers."""

import json
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from privacy import anchor as anchors
from privacy.anchor import Anchor, FileAnchor, KeyringAnchor, NoAnchor, open_anchor
from privacy.errors import LedgerError, LedgerRolledBackError
from privacy.ledger import Ledger
from tests.privacy.keyrings import installed
from tests.privacy.ledgers import KEY, NIGHT, opened


def spend_then_restore_the_copy(home: Path, anchor: Anchor | None) -> None:
    with opened(home, anchor=anchor) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
    shutil.copytree(home, home.parent / "backup")
    with opened(home, anchor=anchor) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
    shutil.rmtree(home)
    shutil.copytree(home.parent / "backup", home)


def test_an_old_copy_that_is_put_back_is_noticed_by_a_file_outside_the_home(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "elsewhere" / "anchor.json")
    spend_then_restore_the_copy(tmp_path / "home", anchor)
    with pytest.raises(LedgerRolledBackError, match="older than its anchor"):
        opened(tmp_path / "home", anchor=anchor)


def test_an_old_copy_that_is_put_back_is_noticed_by_the_keyring(tmp_path: Path) -> None:
    with installed():
        spend_then_restore_the_copy(tmp_path / "home", KeyringAnchor("home"))
        with pytest.raises(LedgerRolledBackError):
            opened(tmp_path / "home", anchor=KeyringAnchor("home"))


def test_without_an_anchor_an_old_copy_verifies_and_the_status_says_that_there_is_none(tmp_path: Path) -> None:
    spend_then_restore_the_copy(tmp_path / "home", None)
    with opened(tmp_path / "home") as ledger:
        ledger.verify()
        assert ledger.rollback_protection == "none"
        assert json.loads(ledger.export())["rollback_protection"] == "none"


def test_a_deleted_ledger_and_a_fresh_one_in_its_place_are_noticed(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "anchor.json")
    with opened(tmp_path / "home", anchor=anchor) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        assert ledger.rollback_protection == "file"
    shutil.rmtree(tmp_path / "home")
    with pytest.raises(LedgerRolledBackError, match="gone"):
        opened(tmp_path / "home", anchor=anchor)
    opened(tmp_path / "home").disconnect()
    with pytest.raises(LedgerRolledBackError):
        opened(tmp_path / "home", anchor=anchor)


def test_the_anchor_moves_forward_with_every_charge(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "anchor.json")
    with opened(tmp_path / "home", anchor=anchor) as ledger:
        ahead = json.loads((tmp_path / "anchor.json").read_text())
        ledger.reserve(NIGHT, blocks=["b"])
        assert json.loads((tmp_path / "anchor.json").read_text())["seq"] == ahead["seq"] + 1
        assert ledger.verify().seq == ahead["seq"] + 1


def test_an_anchor_adopts_a_ledger_that_is_older_than_the_anchor(tmp_path: Path) -> None:
    opened(tmp_path).disconnect()
    with opened(tmp_path, anchor=FileAnchor(tmp_path / "anchor.json")):
        assert json.loads((tmp_path / "anchor.json").read_text())["seq"] == 2


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"format": "anchor/1"}', "x" * 10_000, "[" * 4000])
def test_an_anchor_that_does_not_verify_is_evidence_and_not_absence(tmp_path: Path, text: str) -> None:
    anchor = FileAnchor(tmp_path / "anchor.json")
    opened(tmp_path, anchor=anchor).disconnect()
    anchor.path.write_text(text)
    with pytest.raises(LedgerRolledBackError, match="does not verify"):
        opened(tmp_path, anchor=anchor)


def test_an_anchor_of_another_device_or_moved_back_by_hand_does_not_verify(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "anchor.json")
    opened(tmp_path, anchor=anchor).disconnect()
    written = json.loads(anchor.path.read_text())
    anchor.path.write_text(json.dumps({**written, "seq": 1}))
    with pytest.raises(LedgerRolledBackError, match="does not verify"):
        opened(tmp_path, anchor=anchor)
    anchor.path.write_text(json.dumps(written))
    with pytest.raises(LedgerRolledBackError, match="does not verify"):
        Ledger.open(tmp_path / "ledger.db", key=b"x" * 32, anchor=anchor)


def test_an_anchor_that_cannot_be_moved_keeps_the_charge_and_gives_no_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FileAnchor, text: str) -> NoReturn:
        raise LedgerError("the rollback anchor cannot be written (no room)")

    with opened(tmp_path, anchor=FileAnchor(tmp_path / "anchor.json")) as ledger:
        monkeypatch.setattr(FileAnchor, "write", full)
        with pytest.raises(LedgerError, match="anchor"):
            ledger.reserve(NIGHT, blocks=["b"])
        assert ledger.spent() > 1.9


def test_a_file_that_cannot_be_written_or_read_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    blocked = FileAnchor(tmp_path / "file" / "anchor.json")
    with pytest.raises(LedgerError, match="anchor cannot be"):
        blocked.write("text")
    folder = FileAnchor(tmp_path)
    with pytest.raises(LedgerError, match="cannot be read"):
        folder.read()


def test_a_locked_keyring_rules_nothing_out(tmp_path: Path) -> None:
    with installed() as backend:
        backend.locked = True
        with pytest.raises(LedgerError, match="cannot be ruled out"):
            opened(tmp_path, anchor=KeyringAnchor("home"))
        with pytest.raises(LedgerError, match="not moved"):
            KeyringAnchor("home").write("text")


def test_the_best_place_is_the_keyring_then_a_folder_outside_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.delenv("LIMBECK_KEYRING", raising=False)
    monkeypatch.delenv("LIMBECK_ANCHORS", raising=False)
    monkeypatch.setattr(anchors, "user_state_path", lambda name: tmp_path / "state" / name)
    with installed():
        assert open_anchor(home).place == "keyring"
        monkeypatch.setenv("LIMBECK_KEYRING", "0")
        found = open_anchor(home)
        assert isinstance(found, FileAnchor)
        assert found.path.parent == tmp_path / "state" / "limbeck" / "anchors"
        assert isinstance(open_anchor(tmp_path / "state"), NoAnchor), "a file inside the home would be put back with it"
        monkeypatch.setenv("LIMBECK_ANCHORS", str(tmp_path / "anchors"))
        assert open_anchor(home).place == "file"
        assert open_anchor(home / "x" / "..").path == open_anchor(home).path  # type: ignore[attr-defined]
        monkeypatch.setenv("LIMBECK_ANCHORS", "none")
        assert open_anchor(home).place == "none"


def test_the_key_is_never_written_to_an_anchor(tmp_path: Path) -> None:
    opened(tmp_path, anchor=FileAnchor(tmp_path / "anchor.json")).disconnect()
    text = (tmp_path / "anchor.json").read_text()
    assert KEY.hex() not in text
    assert KEY.decode() not in text
