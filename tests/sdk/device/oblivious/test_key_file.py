"""A gateway's key file: made for its owner only, rotated with overlap, refused when damaged."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sdk.device.oblivious.key_configurations import parse
from sdk.device.oblivious.key_file import KeyFile, read_keys, rotate
from sdk.device.oblivious.suites import KEMS
from sdk.errors import KeyConfigurationError

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_new_file_is_its_owners_alone_and_read_back(tmp_path: Path) -> None:
    made = rotate(tmp_path / "keys", overlap=DAY, now=NOON)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    (found,) = read_keys(tmp_path / "keys")
    assert found.key.configuration == made[0].key.configuration
    assert (found.made, found.until) == (NOON, None)


@pytest.mark.parametrize("kem", KEMS)
def test_every_kind_of_key_survives_the_file(tmp_path: Path, kem: str) -> None:
    made = rotate(tmp_path / "keys", kem=kem, overlap=DAY, now=NOON)
    assert read_keys(tmp_path / "keys")[0].key.configuration == made[0].key.configuration


def test_rotation_lists_the_new_key_first_and_lets_the_old_one_open_for_the_overlap(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    (first,) = rotate(path, overlap=DAY, now=NOON)
    second, _ = rotate(path, overlap=DAY, now=NOON)
    file = KeyFile(path)
    ids = [second.key.configuration.key_id, first.key.configuration.key_id]
    assert ids[0] == (ids[1] + 1) % 256
    assert [one.key_id for one in parse(file.collection(NOON))] == ids
    assert set(file.opening(NOON + DAY - timedelta(seconds=1))) == set(ids)
    assert set(file.opening(NOON + DAY)) == {ids[0]}
    assert [one.key_id for one in parse(file.collection(NOON + DAY))] == ids[:1]
    assert len(rotate(path, overlap=DAY, now=NOON + DAY)) == 2  # What no longer opens is dropped.


def test_an_overlap_is_not_made_longer_by_the_next_rotation(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    rotate(path, overlap=DAY, now=NOON)
    rotate(path, overlap=DAY, now=NOON)
    kept = rotate(path, overlap=30 * DAY, now=NOON)
    assert [one.until for one in kept] == [None, NOON + 30 * DAY, NOON + DAY]


def test_a_running_gateway_reads_the_file_again_when_it_changes_and_survives_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    rotate(path, overlap=timedelta(0), now=NOON)
    file = KeyFile(path)
    before = file.opening(NOON)
    kept = path.read_bytes()
    path.write_bytes(b"{")
    assert file.opening(NOON) == before
    path.write_bytes(kept)
    rotate(path, overlap=timedelta(0), now=NOON)
    assert set(file.opening(NOON)) != set(before)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    rotate(tmp_path / "keys", overlap=DAY, now=NOON)
    (tmp_path / "keys").chmod(0o640)
    with pytest.raises(KeyConfigurationError, match="others than its owner"):
        read_keys(tmp_path / "keys")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": "oblivious-keys/2"}, "format 'oblivious-keys/2'"),
        ({"keys": []}, "holds no key"),
        ({"keys": [{}]}, "no file of gateway keys"),
        ({"keys": 5}, "no file of gateway keys"),
        ({"id": 256}, "no file of gateway keys"),
        ({"seed": "00"}, "no file of gateway keys"),
        ({"seed": None}, "no file of gateway keys"),
        ({"kem": "rsa"}, "no file of gateway keys"),
        ({"algorithms": []}, "no file of gateway keys"),
        ({"algorithms": [[1, 65535]]}, "no file of gateway keys"),
        ({"made": "noon"}, "no file of gateway keys"),
        ({"made": None}, "no file of gateway keys"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = tmp_path / "keys"
    rotate(path, overlap=DAY, now=NOON)
    content = json.loads(path.read_text())
    for name, value in change.items():
        (content if name in content else content["keys"][0])[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(KeyConfigurationError, match=why):
        read_keys(path)
    with pytest.raises(KeyConfigurationError, match=why):
        rotate(path, overlap=DAY, now=NOON)
    assert json.loads(path.read_text()) == content


def test_a_missing_file_and_a_folder_are_refused_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(KeyConfigurationError, match=r"cannot be read|others than"):
            read_keys(path)
    with pytest.raises(KeyConfigurationError, match="cannot write"):
        rotate(tmp_path / "no" / "folder", overlap=DAY, now=NOON)
