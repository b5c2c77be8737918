"""Signed custom metadata in, what is offered to devices out; and back, so that releases are written as they are read.

A catalogue lists the versions of one product in one channel. It travels as the `custom` field of the target
`CHANNEL/NAME/releases.json` in TUF metadata, so a device decides from signed metadata alone, before it downloads
anything. Canonical JSON cannot sign a float, so every figure here is an integer with its unit in its name.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, cast, get_args

from sdk.errors import CatalogueError

__all__ = [
    "CHANNELS",
    "FORMAT",
    "Catalogue",
    "ExtraKind",
    "Health",
    "Kind",
    "Release",
    "Requirements",
    "Rollout",
    "bucket",
    "catalogue_path",
    "file_path",
]

FORMAT = "releases/1"
CHANNELS = ("stable", "testing", "adapters")
EVERYBODY = 10_000  # Shares of devices are counted in ten-thousandths.
FILES = "files"  # The folder of content-addressed targets; so no product may have this name.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
BASE_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MAX_RELEASES = 64  # Of one product in one channel; a device reads them all at every change.

ExtraKind = Literal["adapter", "pack", "probes", "router"]
"""What goes with a base and is released apart from it; see sdk.extra."""
Kind = Literal["base", "adapter", "pack", "probes", "router"]


def bucket(salt: str, device: str) -> int:
    """Place of a device in a rollout, 0 to 9,999, uniform over devices and independent between salts.

    Args:
        salt: Of the release.
        device: A random name that the device gave itself and never tells anybody.
    """
    return int.from_bytes(hashlib.sha256(f"{salt}:{device}".encode()).digest()[:8], "big") % EVERYBODY


def catalogue_path(channel: str, name: str) -> str:
    """Target path of a product's catalogue in a channel."""
    return f"{channel}/{name}/releases.json"


def file_path(channel: str, sha256: str) -> str:
    """Target path of a file of a release: its manifest, its content or a delta."""
    return f"{channel}/{FILES}/{sha256}"


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Which share of devices may take a release."""

    salt: str
    """Mixes the devices anew for each release; 16 hex digits."""
    per10k: int
    """Devices reached out of 10,000; 0 stops the rollout for everybody."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{16}", self.salt):
            raise CatalogueError(f"a rollout's salt has 16 hex digits, got {self.salt!r:.40}")
        if not 0 <= self.per10k <= EVERYBODY:
            raise CatalogueError(f"a rollout reaches 0 to 10000 of 10,000 devices, got {self.per10k}")

    @property
    def stopped(self) -> bool:
        """Whether nobody may take the release, not even when asked to."""
        return self.per10k == 0

    def reaches(self, device: str) -> bool:
        """Whether the device with this random local name is among the share."""
        return bucket(self.salt, device) < self.per10k


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a device must have to take a release; None asks for nothing."""

    sdk: str | None = None
    """Oldest version of limbeck that can run it, such as 0.2.0."""
    memory_mb: int | None = None
    """Least memory of the machine, in 10⁶ bytes."""
    hardware: tuple[str, ...] = ()
    """Machine names, one of which must be the device's, such as arm64; empty: any."""
    base_digest: str | None = None
    """Base that must be active, "sha256:…"; for extras."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """What a freshly installed release must show before the device commits to it."""

    loss_ratio_ppm: int = 1_050_000
    """Mean loss on the bundle's public probes, new over old, at most; in millionths."""
    agreement_per10k: int = 0
    """Next tokens of fixed prompts on which new and old agree, at least; in ten-thousandths."""
    seconds: int = 300
    """Time limit of the whole check."""
    memory_mb: int = 4_096
    """Memory limit of the whole check, in 10⁶ bytes."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version of a product, as it is offered."""

    version: str
    """The bundle's version, as people say it."""
    sequence: int
    """Place in the order of versions, ≥ 1; grows by one with every release of the product in the channel."""
    manifest: str
    """SHA-256 of the bundle's manifest.json: the identity of a release."""
    bytes: int
    """All its files together with the manifest."""
    base_digest: str
    """Of this base; or, for an extra, of the base that it fits; "sha256:…"."""
    rollout: Rollout
    """Who may take it."""
    requires: Requirements = field(default_factory=Requirements)
    """What a device must have."""
    health: Health = field(default_factory=Health)
    """What it must show before it is kept."""
    deltas: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of an older manifest to SHA-256 of the delta that turns that bundle into this one."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All that is offered of one product in one channel."""

    name: str
    """The product: the name in its bundles' manifests."""
    kind: Kind
    """A base model, or what kind of extra for one."""
    releases: tuple[Release, ...] = ()
    """Newest first."""
    revoked: tuple[str, ...] = ()
    """SHA-256 of manifests that devices must leave at once, whatever their bucket."""
    minimum_sequence: int = 0
    """A device below this sequence moves on at once, whatever its bucket."""
    last_sequence: int = 0
    """The highest sequence that was ever given, so that none is given twice after a revocation."""

    def find(self, version: str) -> Release:
        """Return the release of that version.

        Raises:
            CatalogueError: It is not offered; the text lists what is.
        """
        for release in self.releases:
            if release.version == version:
                return release
        offered = ", ".join(release.version for release in self.releases) or "nothing"
        raise CatalogueError(f"{self.name} has no version {version!r} here; offered are: {offered}")

    def to_custom(self) -> dict[str, Any]:
        """The catalogue as signed custom metadata; what is not required or empty is left out."""
        return {
            "format": FORMAT,
            "name": self.name,
            "kind": self.kind,
            "minimum_sequence": self.minimum_sequence,
            "last_sequence": max(self.last_sequence, *(release.sequence for release in self.releases), 0),
            "revoked": sorted(self.revoked),
            "releases": [_written(release) for release in self.releases],
        }

    @classmethod
    def parse(cls, custom: object) -> "Catalogue":
        """Read signed custom metadata; keys that this version does not know are passed over.

        Raises:
            CatalogueError: Another format, a missing or malformed field, or releases out of order.
        """
        fields = _object(custom, "the catalogue")
        if fields.get("format") != FORMAT:
            raise CatalogueError(
                f"catalogue format {fields.get('format')!r:.40} is unknown here (this version reads {FORMAT!r}); "
                "update limbeck"
            )
        kind = _text(fields, "kind")
        if kind not in get_args(Kind):
            raise CatalogueError(f"a catalogue lists {', '.join(get_args(Kind))}, not {kind!r:.40}; update limbeck")
        listed = _list(fields, "releases")
        if len(listed) > MAX_RELEASES:
            raise CatalogueError(f"the catalogue lists {len(listed)} releases, at most {MAX_RELEASES} are read")
        catalogue = cls(
            name=product_name(_text(fields, "name")),
            kind=cast(Kind, kind),
            releases=tuple(_release(_object(each, "a release")) for each in listed),
            revoked=tuple(sorted(_digest(each, "revoked") for each in _list(fields, "revoked"))),
            minimum_sequence=_count(fields, "minimum_sequence"),
            last_sequence=_count(fields, "last_sequence"),
        )
        _check_order(catalogue)
        return catalogue


def product_name(name: str) -> str:
    """Return `name` if a product may have it.

    Raises:
        CatalogueError: It would not be one plain path segment, or it is taken by the files.
    """
    if not NAME.fullmatch(name) or name == FILES:
        raise CatalogueError(
            f"{name!r:.80} cannot be a product's name: small letters, digits, . _ -, at most 64, not {FILES!r}"
        )
    return name


def _check_order(catalogue: Catalogue) -> None:
    """Sequences fall, versions and manifests differ, and nothing offered is revoked."""
    releases = catalogue.releases
    for newer, older in pairwise(releases):
        if newer.sequence <= older.sequence:
            raise CatalogueError(f"{catalogue.name}: releases are out of order at sequence {older.sequence}")
    if releases and releases[0].sequence > catalogue.last_sequence:
        raise CatalogueError(f"{catalogue.name}: release {releases[0].sequence} is above the last one that was given")
    for key in ("version", "manifest"):
        if len({getattr(release, key) for release in releases}) < len(releases):
            raise CatalogueError(f"{catalogue.name}: two releases have the same {key}")
    for release in releases:
        if release.manifest in catalogue.revoked:
            raise CatalogueError(f"{catalogue.name}: version {release.version} is offered and revoked at once")


def _written(release: Release) -> dict[str, Any]:
    wanted = release.requires
    requires: dict[str, Any] = {
        "sdk": wanted.sdk,
        "memory_mb": wanted.memory_mb,
        "hardware": sorted(wanted.hardware) or None,
        "base_digest": wanted.base_digest,
    }
    return {
        "version": release.version,
        "sequence": release.sequence,
        "manifest": release.manifest,
        "bytes": release.bytes,
        "base_digest": release.base_digest,
        "rollout": {"salt": release.rollout.salt, "per10k": release.rollout.per10k},
        "requires": {key: value for key, value in requires.items() if value is not None},
        "health": {
            "loss_ratio_ppm": release.health.loss_ratio_ppm,
            "agreement_per10k": release.health.agreement_per10k,
            "seconds": release.health.seconds,
            "memory_mb": release.health.memory_mb,
        },
        "deltas": dict(sorted(release.deltas.items())),
    }


def _release(fields: Mapping[str, Any]) -> Release:
    rollout, health = _object(fields.get("rollout"), "rollout"), _object(fields.get("health"), "health")
    return Release(
        version=_text(fields, "version"),
        sequence=_count(fields, "sequence", least=1),
        manifest=_digest(fields.get("manifest"), "manifest"),
        bytes=_count(fields, "bytes", least=1),
        base_digest=_base_digest(fields.get("base_digest")),
        rollout=Rollout(salt=_text(rollout, "salt"), per10k=_count(rollout, "per10k")),
        requires=_requirements(_object(fields.get("requires"), "requires")),
        health=Health(
            loss_ratio_ppm=_count(health, "loss_ratio_ppm", least=1),
            agreement_per10k=_count(health, "agreement_per10k"),
            seconds=_count(health, "seconds", least=1),
            memory_mb=_count(health, "memory_mb", least=1),
        ),
        deltas={
            _digest(old, "deltas"): _digest(delta, "deltas")
            for old, delta in _object(fields.get("deltas"), "deltas").items()
        },
    )


def _requirements(fields: Mapping[str, Any]) -> Requirements:
    return Requirements(
        sdk=_text(fields, "sdk") if "sdk" in fields else None,
        memory_mb=_count(fields, "memory_mb") if "memory_mb" in fields else None,
        hardware=tuple(_text({"hardware": each}, "hardware") for each in _list(fields, "hardware", absent=())),
        base_digest=_base_digest(fields["base_digest"]) if "base_digest" in fields else None,
    )


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CatalogueError(f"{what} must be an object, got {value!r:.40}; the catalogue is malformed")
    return value


def _list(fields: Mapping[str, Any], key: str, absent: object = None) -> list[object] | tuple[object, ...]:
    value = fields.get(key, absent)
    if not isinstance(value, list | tuple):
        raise CatalogueError(f"{key} must be a list, got {value!r:.40}; the catalogue is malformed")
    return value


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value or len(value) > 128 or not value.isprintable():
        raise CatalogueError(f"{key} must be a short text, got {value!r:.40}; the catalogue is malformed")
    return value


def _count(fields: Mapping[str, Any], key: str, *, least: int = 0) -> int:
    value = fields.get(key)
    if type(value) is not int or not least <= value < 2**53:  # Any JSON reader keeps integers below 2⁵³ exactly.
        raise CatalogueError(f"{key} must be an integer from {least} on, got {value!r:.40}; the catalogue is malformed")
    return value


def _digest(value: object, key: str) -> str:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise CatalogueError(f"{key} must be 64 hex digits, got {value!r:.40}; the catalogue is malformed")
    return value


def _base_digest(value: object) -> str:
    if not isinstance(value, str) or not BASE_DIGEST.fullmatch(value):
        raise CatalogueError(f"base_digest must be 'sha256:…', got {value!r:.40}; the catalogue is malformed")
    return value
