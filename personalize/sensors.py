"""A machine in, a snapshot of it out: clock, idle time, power, heat, load and room, through psutil.

Works on Linux and macOS. What a machine does not show is None; `personalize.schedule` says what follows from that.
A sensor is a function without arguments, so any of them can be replaced by another.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil

from personalize.schedule import Decision, NightPolicy, Snapshot, decide

__all__ = ["Sensors", "Watch"]

READ_SECONDS = 2.0  # No program that is asked for a reading may hold up a night for longer.
WATCH_SECONDS = 5.0  # How long a reading holds while a night runs: reading costs milliseconds, plugs are pulled rarely.
PROCESSOR = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "acpitz", "soc_thermal")
"""Names under which Linux lists the sensors of processors; a hot disk is no reason not to compute."""


def idle_minutes() -> float | None:
    """Minutes since the last input of anybody logged in; None if a session does not show it."""
    return _idle_of_mac() if sys.platform == "darwin" else _idle_of_terminals()


def charger() -> bool | None:
    """Whether the machine is on its charger; None without a battery."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if battery is None or battery.power_plugged is None else bool(battery.power_plugged)


def battery_percent() -> float | None:
    """Charge of the battery; None without one."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if battery is None else float(battery.percent)


def celsius() -> float | None:
    """Hottest sensor of the processor; None where there is none to be read, as on macOS."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    found = psutil.sensors_temperatures()
    heat = [reading.current for name in PROCESSOR for reading in found.get(name, ()) if reading.current is not None]
    return float(max(heat)) if heat else None


def load() -> float | None:
    """Load average of the last minute over the number of processors."""
    try:
        return float(psutil.getloadavg()[0]) / (psutil.cpu_count() or 1)
    except OSError:
        return None


def free_megabytes(folder: Path) -> float | None:
    """Free room on the disk of a folder."""
    try:
        return shutil.disk_usage(folder).free / 1e6
    except OSError:
        return None


@dataclass(frozen=True, kw_only=True)
class Sensors:
    """Where each reading of a snapshot comes from."""

    clock: Callable[[], datetime] = field(default=lambda: datetime.now().astimezone())
    """Local time with its zone."""
    idle_minutes: Callable[[], float | None] = idle_minutes
    charger: Callable[[], bool | None] = charger
    battery_percent: Callable[[], float | None] = battery_percent
    celsius: Callable[[], float | None] = celsius
    load: Callable[[], float | None] = load
    free_megabytes: Callable[[Path], float | None] = free_megabytes

    def read(self, folder: Path) -> Snapshot:
        """One reading of everything; `folder` is where room is needed."""
        return Snapshot(
            at=self.clock(),
            idle_minutes=self.idle_minutes(),
            charger=self.charger(),
            battery_percent=self.battery_percent(),
            celsius=self.celsius(),
            load=self.load(),
            free_megabytes=self.free_megabytes(folder),
        )


class Watch:
    """Says, while a night runs, whether it must stop; reads the sensors every few seconds, not at every question."""

    def __init__(self, policy: NightPolicy, sensors: Sensors, folder: Path, *, seconds: float = WATCH_SECONDS) -> None:
        """Begin to watch now."""
        self._policy, self._sensors, self._folder, self._seconds = policy, sensors, folder, seconds
        self._read_at = time.monotonic()
        self.decision = Decision(run=True)

    def __call__(self) -> bool:
        """Whether the policy no longer allows the night."""
        if self.decision.run and time.monotonic() - self._read_at >= self._seconds:
            self.decision = decide(self._policy, self._sensors.read(self._folder), running=True)
            self._read_at = time.monotonic()
        return not self.decision.run


def _idle_of_terminals() -> float | None:
    """From the terminals of who is logged in; with nobody there, the machine is idle since it was started."""
    people = psutil.users()
    if not people:
        return max(0.0, time.time() - float(psutil.boot_time())) / 60
    return _idle_since(time.time(), (person.terminal for person in people), Path("/dev"))


def _idle_since(now: float, terminals: Iterable[str | None], devices: Path) -> float | None:
    """Minutes since the last input at any of the terminals; a desktop session (`:0`) has none that could be asked."""
    seconds = []
    for terminal in terminals:
        try:
            seconds.append(now - (devices / terminal).stat().st_atime if terminal else None)
        except OSError:
            seconds.append(None)
    known = [max(0.0, value) for value in seconds if value is not None]
    return min(known) / 60 if known and len(known) == len(seconds) else None


def _idle_of_mac() -> float | None:
    """From the input system's registry, which counts nanoseconds since the last key or pointer."""
    try:
        told = subprocess.run(
            ["/usr/sbin/ioreg", "-c", "IOHIDSystem", "-d", "4"],
            capture_output=True, text=True, timeout=READ_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return _minutes_in(told.stdout)


def _minutes_in(registry: str) -> float | None:
    counted = [int(found) for found in re.findall(r'"HIDIdleTime" = (\d+)', registry)]
    return min(counted) / 60e9 if counted else None
