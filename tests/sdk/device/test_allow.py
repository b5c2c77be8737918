"""When an update may be, what it may keep on the disk, and who goes on answering meanwhile."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from personalize.schedule import Snapshot
from personalize.sensors import Sensors
from sdk.bundle import Bundle
from sdk.device import allow
from sdk.device.allow import UpdatePolicy, against, metered, read_metered
from sdk.device.assistant import Assistant
from sdk.device.install import Updates
from sdk.errors import UpdateBusyError, UpdateError
from tests.served import Served, device, numbers_bundle, served
from tests.tiny import tiny_bundle

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Told(Sensors):
    """Sensors that say what a test tells them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def read(self, home: Path) -> Snapshot:
        return self._snapshot


# --- metered networks, charger, battery ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "charger", "battery", "on_metered", "words"),
    [
        ((), True, 80.0, False, []),
        ((), None, None, None, []),  # A machine that can tell nothing, such as a server: nothing stands against it.
        ((), True, 5.0, False, []),
        ((), False, 15.0, False, ["battery at 15 %, less than 20 %"]),
        (("battery_percent=10",), False, 15.0, False, []),
        ((), False, 80.0, True, ["the network is metered; --policy metered=yes takes it"]),
        (("metered=yes",), False, 80.0, True, []),
        (("charger=yes",), False, 80.0, False, ["not on the charger"]),
        (("charger=yes",), None, None, False, []),
        (("charger=yes",), False, 3.0, True, ["metered", "not on the charger", "battery at 3 %"]),
    ],
)
def test_what_stands_against_an_update_is_named(
    settings: tuple[str, ...], charger: bool | None, battery: float | None, on_metered: bool | None, words: list[str]
) -> None:
    now = Snapshot(at=NOW, charger=charger, battery_percent=battery)
    found = against(UpdatePolicy().changed(settings), now, on_metered=on_metered)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


@pytest.mark.parametrize("setting", ["battery_percent=101", "disk_megabytes=0", "wifi=yes", "charger=maybe"])
def test_a_policy_that_cannot_be_is_refused(setting: str) -> None:
    with pytest.raises(UpdateError):
        UpdatePolicy().changed([setting])


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("no\nyes (guessed)\n", True),
        ("no (guessed)\nunknown\n", False),
        ("unknown\n\n", None),
        ("", None),
    ],
)
def test_network_manager_is_understood(told: str, meant: bool | None) -> None:
    assert read_metered(told) is meant


def test_a_machine_without_network_manager_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.device.allow.shutil.which", lambda name: None)
    assert metered() is None


def test_a_program_that_fails_or_hangs_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nmcli"
    for body in ("exit 1", "exec sleep 60"):
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setattr("sdk.device.allow.shutil.which", lambda name: str(program))
        monkeypatch.setattr(allow, "READ_SECONDS", 0.2)
        assert metered() is None
    program.write_text("#!/bin/sh\necho yes\n")
    monkeypatch.setattr(allow, "READ_SECONDS", 30.0)
    assert metered() is True


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Served]:
    with served(Served(tmp_path / "repository")) as repository:
        yield repository


def numbers(tmp_path: Path, version: str) -> Bundle:
    return numbers_bundle(tmp_path / version, version=version, moved=int(version) * 99)


def test_nothing_is_fetched_on_a_metered_network_but_an_offline_file_is_taken(
    repository: Served, tmp_path: Path
) -> None:
    factory = numbers(tmp_path, "0")
    repository.add(numbers(tmp_path, "1"))
    repository.publish()
    sensors = Told(Snapshot(at=NOW, charger=False, battery_percent=90.0))
    updates = device(tmp_path / "home", repository, factory, sensors=sensors, on_metered=lambda: True)
    with pytest.raises(UpdateError, match="version 1 can be installed, but not now: the network is metered"):
        updates.install()
    assert not any("/targets/" in path for path, _ in repository.requests), "a catalogue is metadata"
    assert updates.install(carried=repository.tar(tmp_path / "carried.tar")).did == "installed"


# --- the disk --------------------------------------------------------------------------------------------------------


def after_two_updates(repository: Served, tmp_path: Path, policy: UpdatePolicy) -> Updates:
    for version in "12":
        repository.add(numbers(tmp_path, version))
        repository.publish()
        updates = device(tmp_path / "home", repository, None, policy=policy)
        updates.install()
    return updates


def test_downloads_are_given_back_and_the_version_before_is_kept_within_the_budget(
    repository: Served, tmp_path: Path
) -> None:
    updates = after_two_updates(repository, tmp_path, UpdatePolicy())
    assert updates.status()["before"] == "version 1"
    assert list((updates.home.path / "downloads").iterdir()) == []
    assert updates.slots.used_bytes() / 1e6 < 0.2, "two bundles of 40 kB and what is known of them"


def test_past_the_budget_the_version_before_is_given_up_and_the_active_one_never(
    repository: Served, tmp_path: Path
) -> None:
    updates = after_two_updates(repository, tmp_path, UpdatePolicy(disk_megabytes=0.05))
    status = updates.status()
    assert (status["active"], status["before"]) == ("version 2", None)
    assert updates.slots.used_bytes() < 60_000, "one bundle of 40 kB"
    assert Bundle.open(updates.slots.folder / updates.slots.current / "base", verify="digests").manifest.version == "2"


# --- somebody answers ------------------------------------------------------------------------------------------------


def pieces(assistant: Assistant) -> Iterator[str]:
    return assistant.stream("the cat", max_new_tokens=12)


def test_an_assistant_goes_on_answering_from_the_slot_that_an_update_leaves(repository: Served, tmp_path: Path) -> None:
    """Word by word the answer that it would have given; the next one opened answers from the new base."""

    def updated(seed: int) -> Updates:
        repository.add(tiny_bundle(tmp_path, seed=seed))
        repository.publish()
        updates = device(tmp_path / "home", repository, None)
        updates.install()
        return updates

    def opened(updates: Updates) -> Assistant:
        bundle = updates.active()
        assert bundle is not None
        return Assistant.open(tmp_path / "home", bundle=bundle, adapter=False)

    updates = updated(1)
    old = opened(updates)
    answer = list(pieces(old))
    assert len(answer) > 3
    begun = pieces(old)
    said = [next(begun)]
    updates = updated(2)
    assert [*said, *begun] == answer
    assert list(pieces(old)) == answer, "also the whole next answer of the same assistant"
    assert list(pieces(opened(updates))) != answer
    with pytest.raises(UpdateBusyError, match="still answers from slot a"):
        updated(3)
