"""A policy, the sensors and the kind of network in, whether a download may begin now and why out."""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from personalize.schedule import Snapshot, with_settings
from sdk.errors import UpdateError

__all__ = ["UpdatePolicy", "against", "metered"]

READ_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class UpdatePolicy:
    """When an update may be fetched and installed. What a machine cannot tell is passed over."""

    metered: bool = False
    """Whether a network that is paid by volume will do."""
    charger: bool = False
    """Only on the charger."""
    battery_percent: float = 20.0
    """Least charge of the battery off the charger, 0 to 100."""
    disk_megabytes: float = 4_000.0
    """Room that slots and downloads may take together, in MB, > 0; past it the version before is given up."""

    def __post_init__(self) -> None:
        if not 0 <= self.battery_percent <= 100 or not 0 < self.disk_megabytes < float("inf"):
            raise UpdateError(
                f"battery_percent must be 0 to 100 and disk_megabytes above 0, got {self.battery_percent:g} and "
                f"{self.disk_megabytes:g}"
            )

    def changed(self, settings: Iterable[str]) -> "UpdatePolicy":
        """This policy with `NAME=VALUE` settings, as a command line gives them.

        Raises:
            UpdateError: No such name, or a value that it cannot have.
        """
        return with_settings(self, settings, called="an update policy", refusal=UpdateError)


def against(policy: UpdatePolicy, now: Snapshot, *, on_metered: bool | None) -> list[str]:
    """What stands against an update now, one clause each.

    Args:
        policy: When it may be.
        now: What the sensors say.
        on_metered: Whether the network is paid by volume; None if this machine cannot tell.
    """
    found = []
    if on_metered and not policy.metered:
        found.append("the network is metered; --policy metered=yes takes it")
    if policy.charger and now.charger is False:
        found.append("not on the charger")
    if now.charger is False and now.battery_percent is not None and now.battery_percent < policy.battery_percent:
        found.append(f"battery at {now.battery_percent:.0f} %, less than {policy.battery_percent:g} %")
    return found


def metered() -> bool | None:
    """Whether the network is paid by volume, as NetworkManager knows or guesses; None without it."""
    if not (program := shutil.which("nmcli")):
        return None
    try:
        told = subprocess.run(
            [program, "-t", "-g", "GENERAL.METERED", "device", "show"],
            capture_output=True, text=True, timeout=READ_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return read_metered(told.stdout)


def read_metered(told: str) -> bool | None:
    """NetworkManager's words for all devices, such as `yes (guessed)`: one that is metered counts."""
    words = [line.split()[0] for line in told.splitlines() if line.strip()]
    return "yes" in words if {"yes", "no"} & set(words) else None
