"""A signed catalogue and what is known of this device in, the release to install or the reason why none out. Pure.

Which devices a rollout reaches is decided here, over a random name that the device gave itself and tells nobody.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from sdk.catalogue import Catalogue, Release, Requirements

__all__ = ["Choice", "Device", "choose"]

Why = Literal["new", "leave", "newest", "later", "stopped", "unsuited", "failed", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a device knows of itself; none of it is ever sent."""

    name: str
    """Random, given by itself."""
    active: str
    """SHA-256 of the manifest of the active bundle, or of the extra in use; empty without one."""
    sequence: int
    """Its place in the order of versions; 0 if it did not come from a release."""
    failed: Collection[str]
    """SHA-256 of manifests whose trial failed here, or that the person rolled back from."""
    sdk: str
    """Version of limbeck."""
    memory_mb: int
    """Memory of the machine, in 10⁶ bytes."""
    hardware: str
    """Name of the machine's kind, such as arm64."""
    base_digest: str = ""
    """Of the base that an extra would go with, "sha256:…"; empty where a base itself is asked for."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to do about a catalogue."""

    why: Why
    """`new`: install `release`. `leave`: the active bundle is revoked; install `release`, or go back where it is None.
    The others: nothing is to be done, because the newest is here, the rollout comes later or was stopped, this device
    does not suit, the release failed here before, or nothing is offered."""
    release: Release | None = None
    """What to install."""
    words: str
    """The same for a person."""


def choose(catalogue: Catalogue, device: Device, *, force: bool = False) -> Choice:
    """Decide what a device shall have.

    Args:
        catalogue: What is offered, newest first.
        device: Who asks.
        force: Whether to take a release before its rollout reaches this device; a stop still holds.
    """
    at = next((one for one in catalogue.releases if one.manifest == device.active), None)
    sequence = at.sequence if at else device.sequence
    revoked = device.active in catalogue.revoked
    must = revoked or sequence < catalogue.minimum_sequence
    refused: list[tuple[Why, str]] = []
    for release in catalogue.releases:
        if release.manifest == device.active or (release.sequence <= sequence and not revoked):
            continue
        if device.base_digest and release.base_digest != device.base_digest:
            fits, has = release.base_digest[7:19], device.base_digest[7:19]
            refused.append(("unsuited", f"version {release.version} fits base {fits}…, the active base is {has}…"))
            continue
        why = _against(release, device, must=must, force=force)
        if why is None:
            kind: Why = "leave" if revoked else "new"
            words = "the active version was revoked; " if revoked else ""
            return Choice(why=kind, release=release, words=f"{words}version {release.version} can be installed")
        refused.append(why)
    if revoked:
        reason = refused[0][1] if refused else "no other is offered"
        return Choice(why="leave", words=f"the active version was revoked, and {reason}")
    if refused:
        return Choice(why=refused[0][0], words=refused[0][1])
    if at or sequence:
        return Choice(why="newest", words="the newest version is active")
    return Choice(why="nothing", words=f"{catalogue.name} has no release yet")


def _against(release: Release, device: Device, *, must: bool, force: bool) -> tuple[Why, str] | None:
    name = f"version {release.version}"
    if release.rollout.stopped:
        return "stopped", f"the rollout of {name} was stopped"
    if unsuited := _unsuited(release.requires, device):
        return "unsuited", f"{name} {unsuited}"
    if release.manifest in device.failed:
        return "failed", f"{name} failed here before or was rolled back, so it is not tried again"
    if not (must or force or release.rollout.reaches(device.name)):
        share = release.rollout.per10k / 100
        return "later", f"{name} reaches {share:g} % of devices so far, not this one yet; --force-check takes it now"
    return None


def _unsuited(wanted: Requirements, device: Device) -> str | None:
    if wanted.sdk and _numbers(device.sdk) < _numbers(wanted.sdk):
        return f"needs limbeck {wanted.sdk} and this is {device.sdk}; update limbeck"
    if wanted.memory_mb and device.memory_mb < wanted.memory_mb:
        return f"needs {wanted.memory_mb} MB of memory and this machine has {device.memory_mb}"
    if wanted.hardware and device.hardware not in wanted.hardware:
        return f"is for {', '.join(wanted.hardware)} and this machine is {device.hardware}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
