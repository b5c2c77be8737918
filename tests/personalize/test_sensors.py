"""What this machine really shows, and how readings of others are understood."""

import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from personalize import sensors
from personalize.schedule import NightPolicy, Snapshot, decide
from personalize.sensors import Sensors, Watch

QUIET = Sensors(
    idle_minutes=lambda: 60.0, charger=lambda: True, battery_percent=lambda: 90.0, celsius=lambda: 40.0,
    load=lambda: 0.1, free_megabytes=lambda folder: 9_000.0,
)  # fmt: skip


def test_a_real_reading_is_in_range_or_says_that_it_does_not_know(tmp_path: Path) -> None:
    now = Sensors().read(tmp_path)
    assert isinstance(now, Snapshot)
    assert now.at.utcoffset() is not None
    assert now.load is not None
    assert now.load == pytest.approx(psutil.getloadavg()[0] / (psutil.cpu_count() or 1), abs=2)
    assert now.free_megabytes == pytest.approx(psutil.disk_usage(str(tmp_path)).free / 1e6, rel=0.05)
    for value, low, high in (
        (now.idle_minutes, 0, 1e7),
        (now.battery_percent, 0, 100),
        (now.celsius, -40, 150),
    ):
        assert value is None or low <= value <= high
    assert now.charger in (None, True, False)
    assert (now.battery_percent is None) == (psutil.sensors_battery() is None)
    decide(NightPolicy(), now).why()


def test_a_reading_costs_milliseconds(tmp_path: Path) -> None:
    begun = time.monotonic()
    for _ in range(5):
        Sensors().read(tmp_path)
    assert time.monotonic() - begun < 5


def test_a_machine_where_nobody_is_logged_in_is_idle_since_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "users", lambda: [])
    monkeypatch.setattr(psutil, "boot_time", lambda: time.time() - 600)
    assert sensors._idle_of_terminals() == pytest.approx(10, abs=0.1)


def test_the_terminal_that_was_used_last_counts(tmp_path: Path) -> None:
    for name, age in (("pts0", 1_200), ("pts1", 300)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    assert sensors._idle_since(1_000_000, ["pts0", "pts1"], tmp_path) == 5
    assert sensors._idle_since(1_000_000, ["pts0", ":0"], tmp_path) is None, "a desktop session cannot be asked"
    assert sensors._idle_since(1_000_000, [None], tmp_path) is None


def test_the_registry_of_a_mac_counts_nanoseconds() -> None:
    told = '    | |   "HIDIdleTime" = 90000000000\n    | |   "HIDParameters" = {"HIDIdleTime"=1}\n'
    assert sensors._minutes_in(told) == 1.5
    assert sensors._minutes_in("no such key") is None


def test_a_machine_that_is_no_mac_does_not_pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **options: Any) -> Any:
        raise FileNotFoundError("ioreg")

    monkeypatch.setattr("subprocess.run", missing)
    assert sensors._idle_of_mac() is None


def test_only_sensors_of_the_processor_count(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = type("Reading", (), {"current": 91.0})()
    cool = type("Reading", (), {"current": 44.0})()
    monkeypatch.setattr(
        psutil, "sensors_temperatures", lambda: {"nvme": [reading], "coretemp": [cool, cool]}, raising=False
    )
    assert sensors.celsius() == 44.0
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {"nvme": [reading]}, raising=False)
    assert sensors.celsius() is None


def test_a_watch_asks_the_sensors_only_now_and_then_and_says_why(tmp_path: Path) -> None:
    plugged, asked = [True], [0]

    def charger() -> bool:
        asked[0] += 1
        return plugged[0]

    watched = Sensors(**{**QUIET.__dict__, "charger": charger})
    rare = Watch(NightPolicy(), watched, tmp_path, seconds=3600)
    plugged[0] = False
    assert not any(rare() for _ in range(100))
    assert asked[0] == 0
    always = Watch(NightPolicy(), watched, tmp_path, seconds=0)
    assert always()
    assert always.decision.against == ("not on the charger",)
    plugged[0] = True
    assert always(), "a night that must stop is not told to go on"
